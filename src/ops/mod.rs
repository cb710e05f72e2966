//! Drivers: the loop nests around the micro-kernels. STUB: being written.
