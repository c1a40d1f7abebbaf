"""Long runs, by hand; the tests run a short one."""
