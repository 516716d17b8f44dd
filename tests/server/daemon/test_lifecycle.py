# SPDX-License-Identifier: Apache-2.0
"""The daemon's life as its users see it: start, refusals, health, stop, kill, and what a restart finds."""

from __future__ import annotations

import os
import socket
import time
import tomllib
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # type: ignore[import-untyped]
    ProtoReflectionDescriptorDatabase,
)

from virtblock.server.cli import main
from virtblock.v1 import block_job_pb2, block_job_service_pb2, common_pb2, connect_service_pb2, domain_block_pb2
from virtblock.v1 import libvirt_enums_pb2 as enums

SERVICES = ("", "virtblock.v1.ConnectService", "virtblock.v1.DomainService", "virtblock.v1.BlockJobService")
CALL_TIMEOUT_S = 60
STANDING_STILL_BYTES_PER_S = 1
DISK_BYTES = 8 * 1024 * 1024

DOMAIN_XML = """<domain type='qemu'><name>guest</name><memory>1024</memory><os><type>hvm</type></os><devices>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{path}'/><target dev='vda' bus='virtio'/>
</disk></devices></domain>"""


def health_of(target: str, service: str = "") -> int:
    with grpc.insecure_channel(target) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=CALL_TIMEOUT_S).status)


def define_guest(client: Any, folder: Path) -> str:
    """A domain with one raw disk of random data; its UUID."""
    path = folder / "disk.raw"
    path.write_bytes(os.urandom(DISK_BYTES))
    request = connect_service_pb2.DomainDefineXMLRequest(xml=DOMAIN_XML.format(path=path))
    return str(client.connect.DomainDefineXML(request, timeout=CALL_TIMEOUT_S).domain.uuid)


def start_copy(client: Any, destination: Path, bandwidth_bytes_per_s: int = 0) -> Any:
    flags = enums.DOMAIN_BLOCK_REBASE_COPY | enums.DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES
    request = domain_block_pb2.BlockRebaseRequest(
        domain=common_pb2.DomainSelector(name="guest"),
        disk="vda",
        base=str(destination),
        bandwidth=bandwidth_bytes_per_s,
        flags=flags,
    )
    return client.domain.BlockRebase(request, timeout=CALL_TIMEOUT_S).job


def wait_for(client: Any, job_id: str, state: block_job_pb2.BlockJobState.ValueType) -> Any:
    request = block_job_service_pb2.WaitBlockJobRequest(job_id=job_id, states=[state])
    answer = client.block_job.WaitBlockJob(request, timeout=CALL_TIMEOUT_S)
    assert answer.reached, answer.job
    return answer.job


def test_two_sockets_with_their_rights(tmp_path: Path, start_daemon: Any) -> None:
    old_umask = os.umask(0)
    try:
        daemon = start_daemon("--listen", f"unix:{tmp_path}/run/sock")
    finally:
        os.umask(old_umask)
    assert daemon.addresses == [f"unix:{tmp_path}/run/sock", f"unix:{tmp_path}/run/sock-ro"]
    modes = {name: (tmp_path / "run" / name).stat().st_mode & 0o777 for name in ("sock", "sock-ro")}
    assert modes == {"sock": 0o660, "sock-ro": 0o666}
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert daemon.stop() == 0
    assert not (tmp_path / "run" / "sock").exists()
    assert not (tmp_path / "run" / "sock-ro").exists()


def test_health_and_reflection_on_both_sockets(tmp_path: Path, start_daemon: Any) -> None:
    daemon = start_daemon("--listen", f"unix:{tmp_path}/sock")
    for target in daemon.addresses:
        assert [health_of(target, service) for service in SERVICES] == [health_pb2.HealthCheckResponse.SERVING] * 4
        with grpc.insecure_channel(target) as channel:
            served = set(ProtoReflectionDescriptorDatabase(channel).get_services())
        assert served >= set(SERVICES[1:])


def test_a_second_daemon_on_the_same_state_is_refused(tmp_path: Path, start_daemon: Any) -> None:
    first = start_daemon("--listen", f"unix:{tmp_path}/one")
    second = start_daemon("--listen", f"unix:{tmp_path}/two", ready=False)
    assert second.wait() == 1
    assert f"state folder '{tmp_path}/state' is in use by another daemon, pid {first.process.pid}" in second.log
    assert health_of(first.addresses[0]) == health_pb2.HealthCheckResponse.SERVING
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("name", ["sock", "sock-ro"])
def test_a_second_daemon_on_the_same_socket_is_refused(tmp_path: Path, start_daemon: Any, name: str) -> None:
    first = start_daemon("--listen", f"unix:{tmp_path}/sock")
    second = start_daemon("--listen", f"unix:{tmp_path}/{name}", "--state-dir", tmp_path / "other", ready=False)
    assert second.wait() == 1
    assert f"is in use by another daemon, pid {first.process.pid}" in second.log
    for target in first.addresses:
        assert health_of(target) == health_pb2.HealthCheckResponse.SERVING


def test_another_programs_socket_is_not_taken(tmp_path: Path, start_daemon: Any) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))
        server.listen()
        daemon = start_daemon("--listen", f"unix:{tmp_path}/sock", ready=False)
        assert daemon.wait() == 1
        assert "in use by another program" in daemon.log


def test_a_port_that_is_taken_undoes_the_start(tmp_path: Path, start_daemon: Any) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        images = tmp_path / "images"
        images.mkdir()
        daemon = start_daemon(
            "--listen", f"unix:{tmp_path}/sock", "--listen", f"127.0.0.1:{port}", "--insecure", "--allow-path", images,
            ready=False,
        )  # fmt: skip
        assert daemon.wait() == 1
    assert f"cannot listen on 127.0.0.1:{port}" in daemon.log
    assert not (tmp_path / "sock").exists()
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--listen", "127.0.0.1:0"], "without TLS is refused"),
        (["--listen", "0.0.0.0:0", "--insecure"], "not loopback"),
        (["--listen", "127.0.0.1:0", "--insecure"], "without --allow-path is refused"),
        (["--connection", "xen:///system"], "this server offers embedded:///, qemu"),
        (["--config", "/does/not/exist.toml"], "No such file"),
        (["--no-such-flag"], "unrecognized arguments"),
        (["--state", "/x"], "unrecognized arguments"),
    ],
)
def test_what_makes_no_sense_is_refused_with_exit_2(
    tmp_path: Path, start_daemon: Any, arguments: list[str], told: str
) -> None:
    if "--listen" not in arguments:
        arguments = [*arguments, "--listen", f"unix:{tmp_path}/sock"]
    daemon = start_daemon(*arguments, ready=False)
    assert daemon.wait() == 2
    assert told in daemon.log
    assert "Traceback" not in daemon.log
    assert not (tmp_path / "state").exists(), "refused before anything was done"


def test_a_daemon_tells_systemd(tmp_path: Path, start_daemon: Any) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(CALL_TIMEOUT_S)
        daemon = start_daemon("--listen", f"unix:{tmp_path}/sock", environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(64) == b"READY=1"
        assert daemon.stop() == 0
        assert manager.recv(64) == b"STOPPING=1"


def test_the_configuration_comes_from_a_file(tmp_path: Path, start_daemon: Any) -> None:
    config = tmp_path / "virtblockd.toml"
    config.write_text(f'listen = ["unix:{tmp_path}/from-file"]\nlog_format = "json"\n')
    daemon = start_daemon("--config", config)
    assert daemon.addresses[0] == f"unix:{tmp_path}/from-file"
    assert '"msg": "serving"' in daemon.log


def test_sigterm_ends_streams_and_the_process(tmp_path: Path, start_daemon: Any, dial: Any) -> None:
    daemon = start_daemon("--listen", f"unix:{tmp_path}/sock")
    client = dial(daemon.addresses[0])
    streams = [client.block_job.WatchBlockJobs(block_job_service_pb2.WatchBlockJobsRequest()) for _ in range(5)]
    for stream in streams:
        assert next(stream).event.HasField("bookmark")
    assert daemon.stop() == 0
    for stream in streams:
        with pytest.raises(grpc.RpcError) as failure:
            next(stream)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_a_restart_finds_domains_jobs_and_events(tmp_path: Path, start_daemon: Any, dial: Any, ending: str) -> None:
    arguments = ("--listen", f"unix:{tmp_path}/sock", "--allow-path", tmp_path / "images")
    (tmp_path / "images").mkdir()
    first = start_daemon(*arguments)
    client = dial(first.addresses[0])
    uuid = define_guest(client, tmp_path / "images")
    destination = tmp_path / "images" / "copy.raw"
    ended = start_copy(client, destination)
    wait_for(client, ended.job_id, block_job_pb2.BLOCK_JOB_STATE_READY)
    abort = domain_block_pb2.BlockJobAbortRequest(domain=common_pb2.DomainSelector(name="guest"), disk="vda")
    client.domain.BlockJobAbort(abort, timeout=CALL_TIMEOUT_S)
    running = start_copy(client, tmp_path / "images" / "slow.raw", bandwidth_bytes_per_s=STANDING_STILL_BYTES_PER_S)
    watched = client.block_job.WatchBlockJobs(block_job_service_pb2.WatchBlockJobsRequest(include_snapshot=True))
    token = next(event.event.resume_token for event in watched if event.event.HasField("bookmark"))
    getattr(first, ending)()

    second = start_daemon(*arguments)
    client = dial(second.addresses[0])
    domains = client.connect.ListAllDomains(connect_service_pb2.ListAllDomainsRequest(), timeout=CALL_TIMEOUT_S).domains
    assert [(domain.name, domain.uuid) for domain in domains] == [("guest", uuid)]
    kept = client.block_job.GetBlockJob(
        block_job_service_pb2.GetBlockJobRequest(job_id=ended.job_id), timeout=CALL_TIMEOUT_S
    ).job
    assert kept.state == block_job_pb2.BLOCK_JOB_STATE_CANCELED
    set_speed = domain_block_pb2.BlockJobSetSpeedRequest(
        domain=common_pb2.DomainSelector(uuid=uuid), disk="vda", bandwidth=0
    )
    client.domain.BlockJobSetSpeed(set_speed, timeout=CALL_TIMEOUT_S)
    wait_for(client, running.job_id, block_job_pb2.BLOCK_JOB_STATE_READY)
    resumed = client.block_job.WatchBlockJobs(
        block_job_service_pb2.WatchBlockJobsRequest(resume_token=token), timeout=CALL_TIMEOUT_S
    )
    states = set()
    for response in resumed:
        states.add(response.event.job.state)
        if response.event.job.state == block_job_pb2.BLOCK_JOB_STATE_READY:
            break
    resumed.cancel()
    assert (tmp_path / "images" / "slow.raw").read_bytes() == (tmp_path / "images" / "disk.raw").read_bytes()
    assert second.stop() == 0
    assert "Traceback" not in second.log


MERGES: dict[str, tuple[Any, Any]] = {
    "pull": ("BlockPull", domain_block_pb2.BlockPullRequest(flags=enums.DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES)),
    "commit": ("BlockCommit", domain_block_pb2.BlockCommitRequest(flags=enums.DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES)),
    "active commit": (
        "BlockCommit",
        domain_block_pb2.BlockCommitRequest(
            flags=enums.DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES | enums.DOMAIN_BLOCK_COMMIT_ACTIVE
        ),
    ),
}


@pytest.mark.parametrize("kind", MERGES)
def test_a_killed_daemon_goes_on_with_a_pull_or_commit(
    tmp_path: Path, start_daemon: Any, dial: Any, make_chain: Any, qemu_img: Any, kind: str
) -> None:
    arguments = ("--listen", f"unix:{tmp_path}/sock", "--allow-path", tmp_path / "chain")
    chain = make_chain()
    golden = tmp_path / "golden.raw"
    qemu_img("convert", "-O", "raw", chain.top, golden)
    first = start_daemon(*arguments)
    client = dial(first.addresses[0])
    xml = DOMAIN_XML.format(path=chain.top).replace("'raw'", "'qcow2'")
    client.connect.DomainDefineXML(connect_service_pb2.DomainDefineXMLRequest(xml=xml), timeout=CALL_TIMEOUT_S)
    method, request = MERGES[kind]
    guest = common_pb2.DomainSelector(name="guest")
    request.MergeFrom(type(request)(domain=guest, disk="vda", bandwidth=64 * 1024))
    if kind == "commit":
        request.top = str(chain.snap1)
    job = getattr(client.domain, method)(request, timeout=CALL_TIMEOUT_S).job
    while not client.block_job.GetBlockJob(
        block_job_service_pb2.GetBlockJobRequest(job_id=job.job_id), timeout=CALL_TIMEOUT_S
    ).job.copied_bytes:
        time.sleep(0.02)
    hold = domain_block_pb2.BlockJobSetSpeedRequest(
        domain=guest,
        disk="vda",
        bandwidth=STANDING_STILL_BYTES_PER_S,
        flags=enums.DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES,
    )
    client.domain.BlockJobSetSpeed(hold, timeout=CALL_TIMEOUT_S)
    first.kill()
    assert qemu_img.is_same(golden, "raw", chain.top, "qcow2"), "in the middle the disk reads as it did"

    second = start_daemon(*arguments)
    client = dial(second.addresses[0])
    set_speed = domain_block_pb2.BlockJobSetSpeedRequest(domain=guest, disk="vda", bandwidth=0)
    client.domain.BlockJobSetSpeed(set_speed, timeout=CALL_TIMEOUT_S)
    disk = chain.top
    if kind == "active commit":
        wait_for(client, job.job_id, block_job_pb2.BLOCK_JOB_STATE_READY)
        pivot = domain_block_pb2.BlockJobAbortRequest(
            domain=guest, disk="vda", flags=enums.DOMAIN_BLOCK_JOB_ABORT_PIVOT
        )
        client.domain.BlockJobAbort(pivot, timeout=CALL_TIMEOUT_S)
        disk = chain.base
    wait_for(client, job.job_id, block_job_pb2.BLOCK_JOB_STATE_COMPLETED)
    assert qemu_img.is_same(golden, "raw", disk, "qcow2")
    assert second.stop() == 0
    assert "Traceback" not in second.log


def test_a_stale_socket_of_a_killed_daemon_is_taken_over(tmp_path: Path, start_daemon: Any) -> None:
    first = start_daemon("--listen", f"unix:{tmp_path}/sock")
    first.kill()
    assert (tmp_path / "sock").is_socket()
    second = start_daemon("--listen", f"unix:{tmp_path}/sock")
    for target in second.addresses:
        assert health_of(target) == health_pb2.HealthCheckResponse.SERVING
    assert second.stop() == 0


def test_a_deadline_ends_the_wait_and_not_the_job(tmp_path: Path, start_daemon: Any, dial: Any) -> None:
    daemon = start_daemon("--listen", f"unix:{tmp_path}/sock")
    client = dial(daemon.addresses[0])
    define_guest(client, tmp_path)
    job = start_copy(client, tmp_path / "slow.raw", bandwidth_bytes_per_s=STANDING_STILL_BYTES_PER_S)
    with pytest.raises(grpc.RpcError) as failure:
        client.block_job.WaitBlockJob(block_job_service_pb2.WaitBlockJobRequest(job_id=job.job_id), timeout=0.3)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    request = block_job_service_pb2.GetBlockJobRequest(job_id=job.job_id)
    assert client.block_job.GetBlockJob(request).job.state == block_job_pb2.BLOCK_JOB_STATE_RUNNING
    set_speed = domain_block_pb2.BlockJobSetSpeedRequest(domain=common_pb2.DomainSelector(name="guest"), disk="vda")
    client.domain.BlockJobSetSpeed(set_speed, timeout=CALL_TIMEOUT_S)
    wait_for(client, job.job_id, block_job_pb2.BLOCK_JOB_STATE_READY)
    assert (tmp_path / "slow.raw").read_bytes() == (tmp_path / "disk.raw").read_bytes()


def test_the_configuration_that_would_be_served_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIRTBLOCK_LOG_FORMAT", "json")
    arguments = ["--listen", f"unix:{tmp_path}/sock", "--state-dir", str(tmp_path / "state"), "--print-config"]
    assert main(arguments) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert (printed["listen"], printed["log_format"]) == ([f"unix:{tmp_path}/sock"], "json")
    assert not (tmp_path / "state").exists()
