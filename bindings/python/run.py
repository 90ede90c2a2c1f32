"""Runs all tests, and says in one line how many there were."""
import sys
import unittest

suite = unittest.defaultTestLoader.discover(".")
result = unittest.TextTestRunner(verbosity=2).run(suite)
failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
skipped = len(result.skipped)
word = "FAILED" if failed else "ok"
print(f"test result: {word}. {result.testsRun - failed - skipped} passed; {failed} failed; "
      f"{skipped} ignored", flush=True)
sys.exit(1 if failed else 0)
