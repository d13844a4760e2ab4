"""A new version of a mosaic every night: unchanged blocks copied, the rest computed, then published."""
