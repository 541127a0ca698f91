//! mlx-types
