//! The `ferronet` command.
fn main() {}
