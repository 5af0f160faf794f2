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

story! {
    /// "100,000 entries in a directory": a fifth of that, since unoptimised programs on a busy machine take
    /// minutes for all. With 100,000 it passes too.
    fn a_directory_of_many_entries_is_listed_whole(world) {
        const ENTRIES: usize = 20_000;
        let alice = alice_with_an_open_folder(world);
        alice.sh("mkdir private/many").ok();
        // One in twenty is a file: symbolic links are made in a third of the time.
        let script = format!(
            r#"for (1..{ENTRIES}) {{
                if ($_ % 20) {{ symlink("target", "entry$_") or die "$_: $!\n" }}
                else {{ open(my $f, ">", "entry$_") or die "$_: $!\n" }}
            }}"#
        );
        alice.run("/bin/sh", ["-c", "cd private/many && perl -e \"$0\"", &script]).ok();
        let listed = |command: &str| alice.sh(command).ok().trim().to_owned();
        assert_eq!(listed("ls -U private/many | wc -l"), ENTRIES.to_string());
        assert_eq!(listed("ls -U private/many | sort -u | wc -l"), ENTRIES.to_string());
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["mount", "Private", "private"]).ok();
        assert_eq!(listed("ls -U private/many | sort -u | wc -l"), ENTRIES.to_string());
        alice.sh(&format!("test -L private/many/entry1 -a -f private/many/entry{ENTRIES} -a ! -e private/many/entry0")).ok();
        // Removed while it is listed, as rm(1) does.
        alice.sh("rm -r private/many").ok();
        assert_eq!(listed("ls -A private"), "");
    }
}
