//! Open connections do not notice weight changes: bytes arrive as they were sent, from the version that began.

use std::{
    fs::{self, File},
    io::{self, Read},
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use grayxdp_tests::{
    agent::Agent,
    config::ServiceConfig,
    load::{Load, Tally},
    process::run,
    scene::Scene,
    sweep,
    topology::{Family, Version},
    traffic::Connection,
};

const BIG: u64 = 100 << 20;
/// Ten seconds at the speed of `/slow/`.
const SLOW: u64 = 20 << 20;
const WEIGHTS: [f64; 6] = [0.0, 30.0, 100.0, 60.0, 10.0, 90.0];

#[test]
fn a_hundred_mebibytes_come_down_unharmed_at_weight_changes_every_100_ms_on_ipv4() -> Result<()> {
    downloads(Family::V4)
}

#[test]
fn a_hundred_mebibytes_come_down_unharmed_at_weight_changes_every_100_ms_on_ipv6() -> Result<()> {
    downloads(Family::V6)
}

#[test]
fn a_hundred_mebibytes_go_up_unharmed_at_weight_changes_every_100_ms_on_ipv4() -> Result<()> {
    uploads(Family::V4)
}

#[test]
fn a_hundred_mebibytes_go_up_unharmed_at_weight_changes_every_100_ms_on_ipv6() -> Result<()> {
    uploads(Family::V6)
}

#[test]
fn a_transfer_that_runs_all_through_a_ramp_arrives_whole_and_keep_alive_connections_stay() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4).with_schedule("kind = \"smooth\", from = 0, to = 100, over = \"6s\"");
    let sum = random_file(&scene, "slow.bin", SLOW)?;
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    let load = Load::start(&scene.topology.client, scene.load_plan(&web))?;
    let copy = scene.v1.file("copy.bin");
    let source = Family::V4.source(60_000);
    let transfer = thread::scope(|scope| {
        let worker = scope.spawn(|| get(&scene, &web, source, "/slow/slow.bin", &copy));
        agent.text(&["start", "web"])?;
        let promoted = agent.wait_for("web", Duration::from_secs(20), |status| status["state"] == "promoted")?;
        assert_eq!(promoted["kernel_weight"], 100.0);
        assert!(!worker.is_finished(), "the transfer ended before the ramp");
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    assert_eq!(transfer, Version::V1, "it began at weight 0");
    assert_eq!(sha256(&copy)?, sum);
    let tally = Tally::of(&load.stop()?);
    assert_eq!(tally.failures, Vec::<String>::new());
    assert_eq!(scene.ask(&web, 1)?, Version::V2);
    Ok(())
}

/// Weights go up and down every 100 ms while `job` runs; returns how often.
fn while_weights_change<T: Send>(agent: &Agent<'_>, job: impl FnOnce() -> Result<T> + Send) -> Result<(T, u32)> {
    let (done, changes) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let changer = scope.spawn(|| -> Result<()> {
            for weight in WEIGHTS.iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                agent.set_weight("web", *weight)?;
                changes.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        });
        let result = job();
        done.store(true, Ordering::Relaxed);
        changer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((result?, changes.load(Ordering::Relaxed)))
    })
}

fn downloads(family: Family) -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(family);
    let sum = random_file(&scene, "big.bin", BIG)?;
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    let copy = scene.v1.file("copy.bin");
    let (versions, changes) = while_weights_change(&agent, || {
        repeated(|index| {
            let version = get(&scene, &web, family.source(index), "/files/big.bin", &copy)?;
            ensure!(sha256(&copy)? == sum, "download {index} from {version} is not what was sent");
            Ok(version)
        })
    })?;
    eprintln!("{} downloads during {changes} weight changes, from {versions:?}", versions.len());
    assert!(changes > 5, "only {changes} weight changes");
    scene.check_checksums()
}

fn uploads(family: Family) -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(family);
    let sum = random_file(&scene, "big.bin", BIG)?;
    let content = bytes::Bytes::from(fs::read(scene.v1.file("big.bin"))?);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    let (versions, changes) = while_weights_change(&agent, || {
        repeated(|index| {
            let version = scene.topology.client.block_on(async {
                let mut connection = Connection::open(web.endpoint(), family.source(index)).await?;
                connection.upload("/files/sent.bin", content.clone()).await
            })?;
            ensure!(sha256(&scene.server(version).file("sent.bin"))? == sum, "upload {index} arrived otherwise");
            Ok(version)
        })
    })?;
    eprintln!("{} uploads during {changes} weight changes, to {versions:?}", versions.len());
    assert!(changes > 5, "only {changes} weight changes");
    scene.check_checksums()
}

/// Again and again from other sources, until both versions had their turn, four times at least.
fn repeated(mut transfer: impl FnMut(u16) -> Result<Version>) -> Result<Vec<Version>> {
    let mut versions = Vec::new();
    for index in 1..=20 {
        versions.push(transfer(index)?);
        if versions.len() >= 4 && Version::ALL.iter().all(|version| versions.contains(version)) {
            return Ok(versions);
        }
    }
    anyhow::bail!("twenty transfers, all with one version: {versions:?}")
}

fn get(scene: &Scene, web: &ServiceConfig, source: IpAddr, path: &str, into: &Path) -> Result<Version> {
    scene.topology.client.block_on(async {
        let mut connection = Connection::open(web.endpoint(), source).await?;
        connection.download(path, into).await
    })
}

/// The same random bytes on both servers; returns their sum.
fn random_file(scene: &Scene, name: &str, length: u64) -> Result<String> {
    let [first, second] = Version::ALL.map(|version| scene.server(version).file(name));
    let mut random = File::open("/dev/urandom")?.take(length);
    io::copy(&mut random, &mut File::create(&first)?)?;
    fs::copy(&first, &second)?;
    sha256(&first)
}

fn sha256(path: &PathBuf) -> Result<String> {
    let mut command = Command::new("sha256sum");
    command.arg(path);
    let printed = run(command)?;
    printed.split(' ').next().map(str::to_owned).with_context(|| format!("sha256sum printed {printed:?}"))
}

#[test]
fn the_sum_of_a_file_is_that_of_its_bytes() -> Result<()> {
    let directory = sweep::temporary_directory(&sweep::unique_name())?;
    let path = directory.join("abc");
    fs::write(&path, "abc")?;
    assert_eq!(sha256(&path)?, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    fs::remove_dir_all(directory)?;
    Ok(())
}
