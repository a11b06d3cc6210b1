//! UDP: real DNS servers as v1 and v2, asked by dig.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use grayxdp_tests::{
    config::ServiceConfig,
    dns::{DnsServer, VERSION_RECORD},
    process::{run, wait_until},
    scene::Scene,
    topology::{Family, Version},
};

const CLIENTS: u16 = 100;

#[test]
fn dig_gets_every_answer_on_ipv4() -> Result<()> {
    every_answer(Family::V4)
}

#[test]
fn dig_gets_every_answer_on_ipv6() -> Result<()> {
    every_answer(Family::V6)
}

#[test]
fn a_udp_conversation_stays_where_it_began() -> Result<()> {
    let scene = Scene::new()?;
    let service = ServiceConfig::dns(Family::V4);
    let _servers = servers(&scene)?;
    let agent = scene.start_agent(std::slice::from_ref(&service))?;
    let old = scene.topology.client.run(|| socket(Family::V4.source(1), service.endpoint()))??;
    assert_eq!(ask(&old)?, Version::V1);
    agent.set_weight("dns", 100.0)?;
    let new = scene.topology.client.run(|| socket(Family::V4.source(1), service.endpoint()))??;
    assert_eq!(ask(&new)?, Version::V2, "a new conversation obeys the weight");
    assert_eq!(ask(&old)?, Version::V1, "an old one stays");
    agent.set_weight("dns", 0.0)?;
    assert_eq!(ask(&new)?, Version::V2, "in either direction");
    Ok(())
}

fn servers(scene: &Scene) -> Result<[DnsServer; 2]> {
    let start = |version| DnsServer::start(scene.topology.backend(version), version);
    Ok([start(Version::V1)?, start(Version::V2)?])
}

fn every_answer(family: Family) -> Result<()> {
    let scene = Scene::new()?;
    let service = ServiceConfig::dns(family);
    let _servers = servers(&scene)?;
    let agent = scene.start_agent(std::slice::from_ref(&service))?;
    wait_until("the first answer", Duration::from_secs(10), || dig(&scene, &service, family.source(1)))?;
    let mut before = dig_all(&scene, &service, family)?;
    assert!(before.values().all(|version| *version == Version::V1), "{before:?}");
    for weight in [50.0, 100.0] {
        agent.set_weight("dns", weight)?;
        let now = dig_all(&scene, &service, family)?;
        assert!(now.iter().all(|(client, version)| before[client] <= *version), "a client moved back at {weight} %");
        let v2 = now.values().filter(|version| **version == Version::V2).count();
        // The hash is the same in every run.
        assert!(if weight == 100.0 { v2 == now.len() } else { (35..=65).contains(&v2) }, "{v2} on v2 at {weight} %");
        before = now;
    }
    let status = agent.service("dns")?;
    assert!(status["versions"]["v2"]["packets_out"].as_u64() >= Some(135), "{status}");
    scene.check_checksums()
}

/// Four at a time; the first one without an answer is an error.
fn dig_all(scene: &Scene, service: &ServiceConfig, family: Family) -> Result<BTreeMap<IpAddr, Version>> {
    let (clients, next, answers) = (family.sources(CLIENTS), AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        let work = || -> Result<()> {
            while let Some(client) = clients.get(next.fetch_add(1, Ordering::Relaxed)) {
                let version = dig(scene, service, *client)?;
                answers.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(*client, version);
            }
            Ok(())
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        anyhow::Ok(())
    })?;
    let answers = answers.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    ensure!(answers.len() == clients.len(), "{} of {} clients got an answer", answers.len(), clients.len());
    Ok(answers)
}

fn dig(scene: &Scene, service: &ServiceConfig, client: IpAddr) -> Result<Version> {
    let mut command = scene.topology.client.command("dig")?;
    command.arg(format!("@{}", service.vip)).args(["-b", &client.to_string(), "-p", &service.port.to_string()]);
    command.args(["+short", "+tries=1", "+time=3", VERSION_RECORD, "TXT"]);
    let printed = run(command)?;
    Version::from_name(printed.trim().trim_matches('"')).with_context(|| format!("{client}: dig printed {printed:?}"))
}

fn socket(source: IpAddr, target: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(source, 0))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(socket)
}

/// Asks for the version's record by hand (RFC 1035), for dig takes a new port for each question.
fn ask(socket: &UdpSocket) -> Result<Version> {
    let mut question = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in VERSION_RECORD.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 16, 0, 1]);
    socket.send(&question)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).context("no answer")?;
    // The record is the last: length byte, then the text.
    let text = answer[..length].rsplit(|byte| usize::from(*byte) == "v1".len()).next().unwrap_or_default();
    Version::from_name(std::str::from_utf8(text)?).with_context(|| format!("answer {:?}", &answer[..length]))
}
