//! Load generator and measuring rod.

fn main() {}
