//! Images with nothing in them but a nats-server.

use std::path::{Path, PathBuf};

use mlx_embedded::Binary;

use testcontainers::core::BuildImageOptions;
use testcontainers::runners::AsyncBuilder as _;
use testcontainers::{GenericBuildableImage, GenericImage};

/// The nats-server image of the registry, for hosts whose own binary does not run in a container.
const OFFICIAL: &str = "nats:2.15.1";

/// Likewise, as old as our promises go.
const OFFICIAL_OLD: &str = "nats:2.10.26";

/// Names the binary that [`Image::old`] is made of.
const OLD_SERVER_VARIABLE: &str = "MLX_TEST_OLD_NATS_SERVER";

/// On every image that is made here; they stay, as a cache, until somebody prunes them by it.
const IMAGE_LABEL: &str = "mlx-serving.test-image";

/// The images that are made here.
const NAME: &str = "mlx-serving-test/nats-server";

/// An image whose command line is nats-server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image(pub(super) String);

impl Image {
    /// The nats-server under test: the image that `MLX_TEST_IMAGE` names, or one made of the binary that the tests use
    /// outside of containers; on a Mac, the official one.
    pub async fn current() -> Self {
        match std::env::var("MLX_TEST_IMAGE") {
            Ok(image) if !image.is_empty() => Self(image),
            _ if !cfg!(target_os = "linux") => Self(OFFICIAL.to_owned()),
            _ => Self::of(&Binary::find(None).unwrap_or_else(|error| panic!("{error}")).path).await,
        }
    }

    /// The oldest nats-server that a cluster may have come from: 2.10.26.
    pub async fn old() -> Self {
        match std::env::var_os(OLD_SERVER_VARIABLE).map(PathBuf::from) {
            Some(binary) if cfg!(target_os = "linux") => Self::of(&binary).await,
            None if cfg!(target_os = "linux") => panic!("{OLD_SERVER_VARIABLE} names no nats-server"),
            _ => Self(OFFICIAL_OLD.to_owned()),
        }
    }

    /// One made of the Linux program `binary` and nothing else, unless there is one already. It needs no registry, and
    /// is kept for the next run.
    pub async fn of(binary: &Path) -> Self {
        let summed = tokio::process::Command::new("sha256sum").arg(binary).output().await.expect("sha256sum");
        let hash: String = String::from_utf8_lossy(&summed.stdout).chars().take(16).collect();
        assert!(summed.status.success() && hash.len() == 16, "{}", String::from_utf8_lossy(&summed.stderr));
        let image = Self(format!("{NAME}:{hash}"));
        // One process makes it, and the others wait.
        let lock = std::fs::File::create(std::env::temp_dir().join(format!("mlx-test-image-{hash}.lock"))).unwrap();
        let _lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await.unwrap().unwrap();
        let recipe = format!(
            "FROM scratch\nLABEL {IMAGE_LABEL}=\nCOPY nats-server /nats-server\nENTRYPOINT [\"/nats-server\"]\n"
        );
        let _ = GenericBuildableImage::new(NAME, &hash)
            .with_dockerfile_string(recipe)
            .with_file(binary, "./nats-server")
            .build_image_with(BuildImageOptions::new().with_skip_if_exists(true))
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        image
    }

    pub(super) fn generic(&self) -> GenericImage {
        let (name, tag) = self.0.rsplit_once(':').unwrap_or((&self.0, "latest"));
        GenericImage::new(name, tag)
    }
}
