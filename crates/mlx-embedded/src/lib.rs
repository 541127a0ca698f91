//! mlx-embedded
