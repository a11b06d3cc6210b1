//! Commands and requests that cannot be carried out: one clear error, an exit code that says so, and nothing changed.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::Result;
use grayxdp_tests::{
    agent::Agent,
    api,
    config::{AgentConfig, ServiceConfig},
    scene::Scene,
    topology::{Family, Version},
};
use hyper::Method;
use serde_json::Value;

const WEIGHT: f64 = 40.0;

#[test]
fn a_refused_command_exits_with_its_code_and_changes_nothing() -> Result<()> {
    let stand = Stand::new()?;
    let agent = stand.agent()?;
    for (arguments, code, words) in [
        (&["set-weight", "nosuch", "50"][..], 1, &["nosuch"][..]),
        (&["set-weight", "web", "101"], 2, &["101"]),
        (&["set-weight", "web", "-1"], 2, &["-1"]),
        (&["set-weight", "web", "12.345"], 2, &["12.345"]),
        (&["set-weight", "web", "half"], 2, &["half"]),
        (&["set-weight", "web", "50", "--shard", "nosuch"], 1, &["no shard `nosuch`", "0, 1, 2"]),
        (&["pin", "web", "--to", "v2"], 2, &["--source", "--dscp"]),
        (&["pin", "web", "--source", "10.0.0.1/8", "--to", "v2"], 2, &["10.0.0.0/8"]),
        (&["pin", "web", "--source", "2001:db8::/32", "--to", "v2"], 1, &["the VIP is IPv4"]),
        (&["unpin", "web", "--dscp", "46"], 1, &["nothing is pinned by dscp 46"]),
        (&["drain", "web", "192.0.2.1:80"], 1, &["192.0.2.1:80 is no backend", "there are"]),
        (&["undrain", "web", "192.0.2.1"], 1, &["an IP address and a port"]),
        (&["backend", "add", "web", "v3", "192.0.2.1:80"], 2, &["v3", "v2"]),
        (&["backend", "add", "web", "v2", "192.0.2.1:80", "--weight", "0"], 2, &["1..=1000"]),
        (&["backend", "remove", "web", "192.0.2.1:80"], 1, &["is no backend"]),
        (&["status", "nosuch"], 1, &["nosuch"]),
        (&["frobnicate"], 2, &["frobnicate"]),
        (&["resume", "nosuch"], 1, &["nosuch"]),
    ] {
        let output = agent.cli(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
    }
    stand.assert_untouched(&agent)
}

#[test]
fn a_start_while_the_release_runs_is_refused_with_advice() -> Result<()> {
    let scene = Scene::new()?;
    let schedule = "kind = \"linear\", from = 5, to = 100, step = 5, every = \"1h\"";
    let web = ServiceConfig::web(Family::V4).with_schedule(schedule);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    agent.text(&["start", "web"])?;
    let output = agent.cli(&["-o", "json", "start", "web"])?;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("already") && said.contains("rollback"), "{said}");
    let body: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(body["error"]["code"], "refused", "{body}");
    let status = agent.service("web")?;
    assert_eq!((&status["state"], &status["kernel_weight"]), (&"progressing".into(), &5.0.into()), "{status}");
    Ok(())
}

#[test]
fn broken_json_on_the_socket_is_refused_and_changes_nothing() -> Result<()> {
    let stand = Stand::new()?;
    let agent = stand.agent()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let path = "/v1/services/web/set-weight";
    for body in
        ["{\"weight\": 5", "", "[]", "{}", "{\"weight\": \"5\"}", "{\"weight\": 101}", "{\"weight\": 1, \"x\": 2}"]
    {
        let (status, answer) = runtime.block_on(api::ask(&agent.config().socket, Method::POST, path, body))?;
        assert_eq!(status, 400, "{body:?}: {answer}");
        assert_eq!(answer["error"]["code"], "bad_request", "{body:?}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{body:?}: {answer}");
    }
    for (method, path, expected) in [
        (Method::POST, "/v1/services/nosuch/freeze", (404, "unknown_service")),
        (Method::GET, "/v2/status", (404, "not_found")),
    ] {
        let (status, answer) = runtime.block_on(api::ask(&agent.config().socket, method, path, "{}"))?;
        assert_eq!((status.as_u16(), answer["error"]["code"].as_str()), (expected.0, Some(expected.1)), "{answer}");
    }
    stand.assert_untouched(&agent)
}

#[test]
fn what_is_not_http_on_the_socket_does_no_harm() -> Result<()> {
    let stand = Stand::new()?;
    let agent = stand.agent()?;
    let long = vec![b'a'; 1 << 20];
    for rubbish in
        [&b"\0\xff\x16\x03\x01"[..], b"GET", b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n", &long]
    {
        let mut socket = UnixStream::connect(&agent.config().socket)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        // It may hang up in the middle.
        socket.write_all(rubbish).ok();
        socket.read_exact(&mut [0; 512]).ok();
    }
    stand.assert_untouched(&agent)
}

#[test]
fn the_socket_is_for_root_alone() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let stand = Stand::new()?;
    let agent = stand.agent()?;
    let mode = fs::metadata(&agent.config().socket)?.permissions().mode();
    assert_eq!(mode & 0o007, 0, "mode {mode:o}");
    Ok(())
}

#[test]
fn without_an_agent_commands_exit_with_5() -> Result<()> {
    let stand = Stand::new()?;
    let mut agent = stand.agent()?;
    agent.kill()?;
    for command in ["status", "start", "freeze", "promote"] {
        let output = agent.cli(&[command])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{command}: {said}");
        assert!(said.contains(&*agent.config().socket.to_string_lossy()), "{said}");
    }
    Ok(())
}

#[test]
fn check_tells_all_errors_of_a_file_at_once() -> Result<()> {
    let stand = Stand::new()?;
    let config = AgentConfig::new(vec![stand.web.clone()])?;
    let agent = stand.agent()?;
    let good = config.write()?;
    assert!(agent.cli(&["check", &good.to_string_lossy()])?.status.success());
    let bad = config.directory().join("bad.toml");
    let text = config.to_toml()?.replace("port = 80", "port = 0").replace("203.0.113.10", "203.0.113.300");
    fs::write(&bad, text)?;
    let output = agent.cli(&["-o", "json", "check", &bad.to_string_lossy()])?;
    assert_eq!(output.status.code(), Some(1));
    let body: Value = serde_json::from_slice(&output.stdout)?;
    let errors = body["errors"].as_array().cloned().unwrap_or_default();
    assert!(body["ok"] == false && errors.len() == 2, "{body}");
    assert!(errors.iter().all(|error| error["line"].as_u64() > Some(1)), "{body}");
    fs::remove_dir_all(config.directory())?;
    stand.assert_untouched(&agent)
}

/// A service at 40 %.
struct Stand {
    scene: Scene,
    web: ServiceConfig,
}

impl Stand {
    fn new() -> Result<Self> {
        Ok(Self { scene: Scene::new()?, web: ServiceConfig::web(Family::V4) })
    }

    fn agent(&self) -> Result<Agent<'_>> {
        let agent = self.scene.start_agent(std::slice::from_ref(&self.web))?;
        agent.set_weight("web", WEIGHT)?;
        Ok(agent)
    }

    fn assert_untouched(&self, agent: &Agent<'_>) -> Result<()> {
        let status = agent.service("web")?;
        assert_eq!((&status["weight"], &status["kernel_weight"]), (&WEIGHT.into(), &WEIGHT.into()), "{status}");
        let v2 = self.scene.ask_many(&self.web, 200)?.iter().filter(|version| **version == Version::V2).count();
        assert!((50..=110).contains(&v2), "{v2} of 200 clients on v2");
        Ok(())
    }
}
