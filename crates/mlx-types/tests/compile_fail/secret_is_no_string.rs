use mlx_types::Secret;

fn main() {
    let secret = Secret::new("hunter2".to_owned());
    let _: &str = secret.as_str();
}
