"""Programs that run with the OpenStack environment's Python, by their path; DIMINET is not there."""
