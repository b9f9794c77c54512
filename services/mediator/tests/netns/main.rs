//! Real processes behind real NATs, in network namespaces (root only).
