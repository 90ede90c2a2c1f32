
# Appended to the generated module. A thread that calls into Python, or writes to a store, while the process
# ends would make it crash.
import atexit

atexit.register(end_everything)
