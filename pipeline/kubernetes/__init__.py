"""Runs on Kubernetes that start themselves: the API, RayJobs made from a template, their logs."""
