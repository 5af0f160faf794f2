//! Long names, deep paths, many entries.

use claviger_hw_tests::story;

use crate::scene::{alice_with_an_open_folder, says};

story! {
    /// "Name of 255 bytes": whatever fits in other folders fits here; one more is refused as there.
    fn names_of_255_bytes_are_kept_and_longer_ones_refused(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("cd private; for n in 1 175 176 190 191 192 254 255; do name=$(printf %${n}s x | tr ' ' a); echo $n >$name || exit 1; done").ok();
        let umlauts = "ä".repeat(127);
        alice.sh(&format!("echo umlauts >private/{umlauts}x; mkdir private/{umlauts}; echo deep >private/{umlauts}/{umlauts}")).ok();
        let long = "b".repeat(256);
        says(&alice.sh(&format!("echo >private/{long}")).finish().stderr, &["File name too long"]);
        let (from, to) = ("a".repeat(254) + "x", "c".repeat(255));
        alice.sh(&format!("mv private/{from} private/{to} && ln private/{to} private/{}", "d".repeat(255))).ok();

        alice.claviger(["umount", "private"]).ok();
        assert_eq!(alice.sh("find Private -name '*aaaa*'").ok(), "");
        alice.claviger(["verify", "Private"]).ok();
        alice.claviger(["mount", "Private", "private"]).ok();
        assert_eq!(alice.sh(&format!("cat private/{to} private/{umlauts}x private/{umlauts}/{umlauts}")).ok(), "255\numlauts\ndeep\n");
        for n in [1, 175, 176, 190, 191, 192, 254] {
            let name = "a".repeat(n - 1) + "x";
            assert_eq!(alice.sh(&format!("cat private/{name}")).ok(), format!("{n}\n"));
        }
        alice.sh("rm -r private/*").ok();
        // Nothing stays behind below: no sidecar of a long name either.
        assert_eq!(alice.sh("find Private -mindepth 1 -maxdepth 1 ! -name '.*'").ok(), "");
    }
}

/// Goes down `$ARGV[0]` folders, each of `$ARGV[1]` bytes, and makes them on the way.
const DOWN: &str = r#"my ($levels, $bytes, $make) = @ARGV; my $name = "p" x $bytes;
for (1..$levels) { if ($make) { mkdir $name or die "mkdir $_: $!\n" } chdir $name or die "chdir $_: $!\n" }"#;

story! {
    /// "Path of PATH_MAX" and "lower paths beyond PATH_MAX": by steps there is no end.
    fn paths_beyond_path_max_can_be_made_read_and_removed(world) {
        let alice = alice_with_an_open_folder(world);
        let down = |levels: &str, bytes: &str, make: &str, then: &str| {
            let script = format!("{DOWN}\n{then}");
            alice.run("/bin/sh", ["-c", "cd private && perl -e \"$0\" \"$@\"", &script, levels, bytes, make])
        };
        // 60 folders of 200 bytes: 12,060 bytes, and more below, where names are longer.
        let write = r#"open(my $f, ">", "bottom") or die "open: $!\n"; print $f "deep\n"; close $f or die "close: $!\n"; rename "bottom", "end" or die "rename: $!\n";"#;
        down("60", "200", "1", write).ok();
        let read = r#"open(my $f, "<", "end") or die "open: $!\n"; print <$f>;"#;
        assert_eq!(down("60", "200", "", read).ok(), "deep\n");
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["mount", "Private", "private"]).ok();
        assert_eq!(down("60", "200", "", read).ok(), "deep\n");
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(down("60", "200", "", read).ok(), "deep\n");
        says(&alice.claviger(["verify", "Private"]).finish().stdout, &["61 directories, 1 files"]);

        // A path of exactly PATH_MAX - 1 bytes is one system call; a byte more is refused by the kernel.
        let path = format!("{}/{}", "q".repeat(200), "q/".repeat(10));
        alice.sh(&format!("mkdir -p private/{path} && echo 1 >private/{path}file && cat private/{path}file")).ok();
        let slashes = 4095 - "private/".len() - path.len() - "file".len();
        let longest = format!("private/{}{path}file", "/".repeat(slashes));
        assert_eq!(alice.sh(&format!("cat {longest}")).ok(), "1\n");
        says(&alice.sh(&format!("cat /{longest}")).fails(1), &["File name too long"]);
        alice.sh("rm -rf private/*").ok();
        assert_eq!(alice.sh("find Private -mindepth 1 -maxdepth 1 ! -name '.*'").ok(), "");
    }
}

/// Makes entries 1 to `$ARGV[0]`: most are pipes, which are made fastest.
const FILL: &str = r#"use POSIX "mkfifo";
for (1..$ARGV[0]) {
    if ($_ % 100 == 0) { open(my $f, ">", "entry$_") or die "$_: $!\n"; print $f $_; close $f or die "$_: $!\n" }
    elsif ($_ % 10 == 0) { symlink("to $_", "entry$_") or die "$_: $!\n" }
    else { mkfifo("entry$_", 0600) or die "$_: $!\n" }
}"#;

/// Lists the folder, which has to have what [`FILL`] made and [`CHANGE`] left, each once and nothing else;
/// looks closer at every 50th.
const LIST: &str = r#"my ($entries, $changed) = @ARGV;
my $expected = sub { $changed && $_[0] % 1000 == 500 ? undef : $changed && $_[0] % 1000 == 0 ? "moved$_[0]" : "entry$_[0]" };
opendir(my $dir, ".") or die "opendir: $!\n";
my %listed; $listed{$_}++ while defined($_ = readdir $dir);
delete $listed{"."} == 1 && delete $listed{".."} == 1 or die "dots\n";
for (1..$entries) {
    my $name = $expected->($_) // next;
    my $times = delete $listed{$name} // 0;
    $times == 1 or die "$name is listed $times times\n";
    next if $_ % 50;
    lstat $name or die "$name: $!\n";
    if ($_ % 100 == 0) { -f _ && -s _ == length or die "$name is no such file\n" }
    else { -l _ && readlink($name) eq "to $_" or die "$name is no such symlink\n" }
}
print join(" ", "whole", keys %listed);"#;

/// Of each thousand, gives one another name and removes one, while the folder is being listed.
const CHANGE: &str = r#"opendir(my $dir, ".") or die "opendir: $!\n"; readdir $dir for 1..10;
for (1..$ARGV[0]) {
    if ($_ % 1000 == 0) { rename "entry$_", "moved$_" or die "$_: $!\n" }
    elsif ($_ % 1000 == 500) { unlink "entry$_" or die "$_: $!\n" }
}
1 while readdir $dir;"#;

story! {
    /// "100,000 entries in a directory."
    fn a_directory_of_100_000_entries_is_listed_whole(world) {
        const ENTRIES: &str = "100000";
        let alice = alice_with_an_open_folder(world);
        alice.sh("mkdir private/many").ok();
        let inside = |script: &str, changed: &str| {
            alice.run("/bin/sh", ["-c", "cd private/many && exec perl -e \"$0\" \"$@\"", script, ENTRIES, changed]).ok()
        };
        inside(FILL, "");
        assert_eq!(inside(LIST, ""), "whole");
        inside(CHANGE, "");
        assert_eq!(inside(LIST, "changed"), "whole");
        alice.claviger(["umount", "private"]).ok();
        says(&alice.claviger(["verify", "Private"]).finish().stdout, &["2 directories, 900 files"]);
        alice.claviger(["mount", "Private", "private"]).ok();
        assert_eq!(inside(LIST, "changed"), "whole");
        // Removed while it is listed, as rm(1) does.
        alice.sh("rm -r private/many").ok();
        assert_eq!(alice.sh("ls -A private").ok(), "");
    }
}
