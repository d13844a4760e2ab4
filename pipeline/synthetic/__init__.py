"""The demo's landscape: invented, but credible, and its labels are exact."""
