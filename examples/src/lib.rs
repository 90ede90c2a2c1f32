//! The examples are beside this folder.
