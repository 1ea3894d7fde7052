"""INT8: the images that a user gives, calibration from them, and what is made of it."""
