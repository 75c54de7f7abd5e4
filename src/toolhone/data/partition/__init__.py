"""Rows to sides (train, val, calibration, test), and what one file gives away of another."""
