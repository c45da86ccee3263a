"""A Docker image made of this machine's own Perl, for no registry is needed for it."""

import json
import re
import subprocess
from pathlib import Path

from local_sagemaker.processes import docker

IMAGE = "evergreen-test:1"
PROGRAM = r"""
use strict; use IO::Socket::INET; $| = 1;
my $what = shift // "nothing";
sub slurp { local $/; open(my $file, "<", shift) or die "$!"; <$file> }
print "start $what @ARGV $ENV{COLOUR}\n";
if ($what eq "train") {
    open(my $model, ">", "/opt/ml/model/weights") or die "$!";
    print $model slurp("/opt/ml/input/config/hyperparameters.json");
} elsif ($what eq "wait") {
    $SIG{TERM} = sub { print "stopped\n"; exit 0 };
    sleep 1 for 1 .. 60;
} elsif ($what eq "fail") {
    exit 7;
} elsif ($what eq "show") {
    print slurp("/proc/sys/kernel/hostname"), slurp("/etc/hosts");
    print "interfaces ", join(" ", slurp("/proc/net/dev") =~ /([\w-]+):/g), "\n";
} elsif ($what eq "serve") {
    $SIG{TERM} = sub { exit 0 };
    my $server = IO::Socket::INET->new(LocalPort => 8080, Listen => 5, ReuseAddr => 1) or die "$!";
    while (my $client = $server->accept) {
        my ($length, $line) = (0, "");
        while (($line = <$client>) && $line =~ /\S/) { $length = $1 if $line =~ /^content-length:\s*(\d+)/i }
        read($client, my $body, $length);
        my $answer = slurp("/opt/ml/model/answer.txt") . ($body // "");
        print $client "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: " . length($answer) . "\r\n\r\n$answer";
        close $client;
    }
}
"""


def why_not() -> str | None:
    """Why the image cannot be had here."""
    return docker.unavailable() or (None if Path("/usr/bin/perl").exists() else "there is no /usr/bin/perl")


def build(folder: Path) -> None:
    """Import the image."""
    modules = "use IO::Socket::INET; print map { qq($_\n) } values(%INC), @DynaLoader::dl_shared_objects"
    used = subprocess.run(["perl", "-e", modules], capture_output=True, text=True, check=True).stdout.split()
    libraries = subprocess.run(["ldd", "/usr/bin/perl"], capture_output=True, text=True, check=True).stdout
    files = ["/usr/bin/perl", *used, *re.findall(r"(/\S+) \(", libraries)]
    (folder / "program").write_text(PROGRAM)
    archive = folder / "image.tar"
    subprocess.run(
        ["tar", "--create", "--dereference", "--absolute-names", f"--file={archive}", *files], check=True
    )
    subprocess.run(["tar", "--append", f"--file={archive}", f"--directory={folder}", "program"], check=True)
    entrypoint = json.dumps(["/usr/bin/perl", "/program"])
    subprocess.run(
        ["docker", "import", f"--change=ENTRYPOINT {entrypoint}", str(archive), IMAGE],
        check=True,
        capture_output=True,
    )
