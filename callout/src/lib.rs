//! claviger-callout
