"""Measurements on a real lab (DESIGN section 2); `diminet bench`."""
