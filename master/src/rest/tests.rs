//! The interface as a client meets it: the whole router, over a real loop and a real store.
