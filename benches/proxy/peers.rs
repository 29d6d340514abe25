//! Other gateways, installed below the target directory from the registries of their languages.
//! None of them writes anything down here: the one that can needs a database server for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::load::Shot;
use crate::process::{Server, free_addr, reason};

/// What OpenAI's clients send; the prompt is that of the other side.
fn chat(model: &str) -> String {
    let text = crate::PROMPT;
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"{text}"}}]}}"#)
}

/// A peer that runs, and what it is asked.
pub(crate) type Started = Result<(Server, Shot)>;

/// Every peer by name, or why it is not here.
pub(crate) fn start(upstream: &Server) -> Vec<(&'static str, Started)> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().map(|target| target.join("bench"));
    let dir = dir.unwrap_or_else(|| PathBuf::from("bench"));
    vec![
        ("LiteLLM, 1 worker, no database", litellm(&dir, upstream)),
        ("Portkey gateway", portkey(&dir, upstream)),
        ("Bifrost", bifrost(&dir, upstream)),
    ]
}

fn litellm(dir: &Path, upstream: &Server) -> Started {
    let venv = dir.join("litellm");
    let program = venv.join("bin/litellm");
    if !program.exists() {
        install(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let mut pip = Command::new(venv.join("bin/pip"));
        install(pip.args(["install", "--quiet", "litellm[proxy]"]))?;
    }
    let config = dir.join("litellm.yaml");
    fs::write(
        &config,
        format!(
            "model_list:\n  - model_name: bench-model\n    litellm_params:\n      \
            model: openai/bench-model\n      api_base: http://{}/v1\n      api_key: bench\n",
            upstream.addr
        ),
    )?;
    let addr = free_addr()?;
    let mut command = Command::new(program);
    command.arg("--config").arg(config).args(["--host", "127.0.0.1", "--num_workers", "1"]);
    command.args(["--port", &addr.port().to_string()]);
    // It refuses to start without a key of its own.
    command.env("LITELLM_MASTER_KEY", "sk-bench-0123456789abcdef0123456789abcdef");
    // The table of prices is read from the package and not from the network.
    command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True").env("LITELLM_LOG", "ERROR");
    let server = Server::told(&mut command, addr, &dir.join("litellm.log"))?;
    let headers = [("authorization", "Bearer sk-bench-0123456789abcdef0123456789abcdef")];
    Ok((server, Shot::new(addr, "/v1/chat/completions", &headers, &chat("bench-model"))))
}

fn portkey(dir: &Path, upstream: &Server) -> Started {
    let prefix = dir.join("node");
    let program = prefix.join("node_modules/@portkey-ai/gateway/build/start-server.js");
    if !program.exists() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(&prefix);
        install(npm.arg("@portkey-ai/gateway"))?;
    }
    let addr = free_addr()?;
    let mut command = Command::new("node");
    command.arg(program).arg("--headless").arg(format!("--port={}", addr.port()));
    let server = Server::told(&mut command, addr, &dir.join("portkey.log"))?;
    let host = format!("http://{}/v1", upstream.addr);
    let headers = [
        ("x-portkey-provider", "openai"),
        ("x-portkey-custom-host", host.as_str()),
        ("authorization", "Bearer bench"),
    ];
    Ok((server, Shot::new(addr, "/v1/chat/completions", &headers, &chat("bench-model"))))
}

/// Its package downloads the program when it is run for the first time.
fn bifrost(dir: &Path, upstream: &Server) -> Started {
    let app = dir.join("bifrost");
    fs::create_dir_all(&app)?;
    let config = format!(
        r#"{{"providers":{{"openai":{{"keys":[{{"name":"main","value":"bench","models":["*"],
        "weight":1}}],"network_config":{{"base_url":"http://{}"}}}}}}}}"#,
        upstream.addr
    );
    fs::write(app.join("config.json"), config)?;
    let addr = free_addr()?;
    let mut command = Command::new("npx");
    command.args(["--yes", "@maximhq/bifrost", "--host", "127.0.0.1", "--app-dir"]).arg(&app);
    command.args(["--port", &addr.port().to_string()]);
    let server = Server::told(&mut command, addr, &dir.join("bifrost.log"))?;
    Ok((server, Shot::new(addr, "/v1/chat/completions", &[], &chat("openai/bench-model"))))
}

fn install(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", reason(&said));
    Ok(())
}
