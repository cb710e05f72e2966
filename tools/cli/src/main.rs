//! The `skipstone` command. STUB: being written.

fn main() {}
