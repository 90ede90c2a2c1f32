//! The session store on disk, in SQLCipher.
#![forbid(unsafe_code)]
