//! mlx-config
