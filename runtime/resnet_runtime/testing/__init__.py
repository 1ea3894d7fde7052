"""Stand-ins for what a test has not got: passed in as arguments, never patched in."""
