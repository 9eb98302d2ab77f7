//! Load generator and measuring rod.
