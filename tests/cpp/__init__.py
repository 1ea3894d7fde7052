"""The C++ runtime beside Python's: ``make test-cpp`` builds it and runs these."""
