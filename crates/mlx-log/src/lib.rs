//! mlx-log
