//! What is read from disk: the file itself, and the files that it names.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::{CANARY, PROJECT, env, load};
use crate::config::{Config, ConfigError, Env, KeyOrigin, Origin, locate_from};

/// A file with this content and mode in a fresh directory.
fn secret_file(content: &[u8], mode: u32) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("key");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (dir, path)
}

fn with_key_file(path: &Path) -> String {
    let path = path.display();
    format!("[[project]]\nname = \"demo\"\nkeys = [{{ name = \"main\", file = \"{path}\" }}]\n")
}

#[test]
fn a_key_file_is_read_without_the_space_around_it() {
    for mode in [0o600, 0o400] {
        let (_dir, path) = secret_file(format!("  {CANARY}\n").as_bytes(), mode);
        let config = load(&with_key_file(&path)).unwrap();
        let key = &config.projects[0].keys[0];
        assert_eq!(key.secret.expose_secret(), CANARY);
        assert_eq!(key.origin, KeyOrigin::File(path.clone()));

        let text = config.render_masked();
        assert!(text.contains(&format!("# ******** from file {}", path.display())), "{text}");
        assert!(!format!("{text}{config:?}").contains("Canary"), "{text}");
        assert_eq!(format!("{:?}", load(&text).unwrap()), format!("{config:?}"));
    }
}

#[test]
fn a_bad_key_file_is_refused_with_what_to_do() {
    let long = CANARY.repeat(200);
    let cases: [(&[u8], u32, &str); 7] = [
        (CANARY.as_bytes(), 0o640, "others may use this file (mode 0640); run: chmod 600 '"),
        (CANARY.as_bytes(), 0o604, "others may use this file (mode 0604); run: chmod 600 '"),
        (b" \n", 0o600, "the file is empty; put the secret into it"),
        (b"AIzaCanary two words", 0o600, "not one word of printable ASCII; put the secret alone"),
        (b"AIzaCanary\nAIzaCanary\n", 0o600, "not one word of printable ASCII"),
        (b"AIzaCanary\xff", 0o600, "not one word of printable ASCII"),
        (long.as_bytes(), 0o600, "longer than 4096 bytes"),
    ];
    for (content, mode, wanted) in cases {
        let (_dir, path) = secret_file(content, mode);
        let error = load(&with_key_file(&path)).unwrap_err();
        let message = error.to_string();
        let start = format!("t.toml:3:33: {}: {wanted}", path.display());
        assert!(message.starts_with(&start), "{message}");
        assert!(!format!("{error:?}").contains("Canary"), "{error:?}");
    }
}

#[test]
fn credentials_of_systemd_are_read_whatever_their_mode_bits() {
    let (dir, path) = secret_file(CANARY.as_bytes(), 0o440);
    let text = with_key_file(&path);
    load(&text).unwrap_err();
    let env = Env::from_iter([("HOME", Path::new("/h")), ("CREDENTIALS_DIRECTORY", dir.path())]);
    let config_file = dir.path().join("tidegate.toml");
    fs::write(&config_file, &text).unwrap();
    let config = Config::load(Some(&config_file), &env).unwrap();
    assert_eq!(config.projects[0].keys.len(), 1);
}

#[test]
fn the_token_of_clients_is_read_from_its_file() {
    let (_dir, path) = secret_file(CANARY.as_bytes(), 0o600);
    let auth = |path: &Path| {
        load(&format!("{PROJECT}[server]\nauth = {{ token_file = \"{}\" }}\n", path.display()))
    };
    let config = auth(&path).unwrap();
    let token = &config.server.auth.as_ref().unwrap().token;
    assert_eq!(token.expose_secret(), CANARY);
    let text = config.render_masked();
    assert!(!format!("{text}{config:?}").contains("Canary"), "{text}");
    assert_eq!(format!("{:?}", load(&text).unwrap()), format!("{config:?}"));

    let error = auth(&path.with_extension("gone")).unwrap_err();
    assert!(matches!(error, ConfigError::UnreadableSecret { .. }), "{error:?}");
}

#[test]
fn the_file_is_looked_for_in_order() {
    let dir = TempDir::new().unwrap();
    let system = dir.path().join("etc.toml");
    let home = dir.path().join("home");
    let own = home.join(".config/tidegate/tidegate.toml");
    let xdg = dir.path().join("xdg/tidegate/tidegate.toml");
    let named = Path::new("/named.toml");
    let explicit = Path::new("relative.toml");
    let base = Env::from_iter([("HOME", &home)]);
    let with_named = Env::from_iter([("HOME", home.as_path()), ("TIDEGATE_CONFIG", named)]);
    let with_xdg = Env::from_iter([("HOME", home), ("XDG_CONFIG_HOME", dir.path().join("xdg"))]);

    assert_eq!(locate_from(None, &base, &system), None);
    for file in [&own, &xdg] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    }
    assert_eq!(locate_from(None, &base, &system), Some(own));
    assert_eq!(locate_from(None, &with_xdg, &system), Some(xdg));
    fs::write(&system, "").unwrap();
    assert_eq!(locate_from(None, &with_xdg, &system), Some(system.clone()));
    assert_eq!(locate_from(None, &with_named, &system).as_deref(), Some(named));
    assert_eq!(locate_from(Some(explicit), &with_named, &system).as_deref(), Some(explicit));
    assert_eq!(Config::locate(Some(explicit), &base).as_deref(), Some(explicit));
}

#[test]
fn a_file_that_cannot_be_read_is_said_and_not_passed_over() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("tidegate.toml");
    let load = || Config::load(Some(&path), &env());
    let at = |rest: &str| format!("{}:{rest}", path.display());

    let error = load().unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }), "{error:?}");
    assert!(error.to_string().starts_with(&at(" cannot read the configuration; ")), "{error}");

    fs::write(&path, b"[server]\n# \xff\n").unwrap();
    assert_eq!(load().unwrap_err().to_string(), at("2:3: not UTF-8; save the file as UTF-8"));

    fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    let message = load().unwrap_err().to_string();
    assert_eq!(message, at("1:1: longer than 1 MiB; name a configuration file"));

    fs::write(&path, PROJECT).unwrap();
    assert_eq!(load().unwrap().origin, Origin::File(path.clone()));
}

#[test]
fn the_example_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tidegate.toml");
    let config = Config::load(Some(&path), &env()).unwrap();
    assert_eq!(config.projects[0].missing_keys(), [""; 0]);
    let text = fs::read_to_string(path).unwrap();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    assert!(fs::read_to_string(docs).unwrap().contains(&text), "the page shows the example");
}

#[test]
fn a_key_file_that_cannot_be_read_is_missing_and_no_error_of_the_configuration() {
    let (_dir, path) = secret_file(CANARY.as_bytes(), 0o600);
    let gone = path.with_extension("gone");
    let text = format!(
        "[[project]]\nname = \"demo\"\nkeys = [{{ name = \"k\", file = \"{}\" }}]\n",
        gone.display()
    );
    let config = load(&text).unwrap();
    assert!(config.projects[0].keys.is_empty());
    let told = config.projects[0].missing_keys().remove(0);
    let wanted = format!("project `demo`: key `k` is missing: file {} cannot be", gone.display());
    assert!(told.starts_with(&wanted), "{told}");
    assert!(config.render_masked().contains("# missing: file "), "{}", config.render_masked());
}
