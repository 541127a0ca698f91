//! mlx-nats
