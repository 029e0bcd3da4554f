//! Whose turn it is: a token bucket per application, urgent calls first.
