//! Mutants that nobody notices, and why that is no gap: what they change makes no difference, or none that is promised.

/// The mutants by name, and why each survives.
pub const EXPLAINED: &[(&str, &str)] = &[];
