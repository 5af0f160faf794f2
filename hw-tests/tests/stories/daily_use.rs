//! What ordinary programs do in a folder, without knowing whose it is.

use claviger_hw_tests::story;

use crate::scene::alice_with_an_open_folder;

story! {
    /// "A real tree is copied in, compared by checksum, and shown as ciphertext below."
    fn a_tree_that_is_copied_in_comes_out_the_same(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("mkdir source && cp -r /usr/include/linux source/ && ln -s linux source/link && mkfifo source/pipe && chmod 640 source/linux/fuse.h && touch -d '2001-02-03 04:05:06.789' source/linux/fs.h").ok();
        alice.sh("cp -a source private/tree && rm private/tree/pipe source/pipe && diff -r --no-dereference source private/tree").ok();
        let listing = "find . -printf '%P %y %m %s %T@ %l\\n' | grep -v '^[^ ]* d' | sort";
        assert_eq!(alice.sh(&format!("cd source && {listing}")).ok(), alice.sh(&format!("cd private/tree && {listing}")).ok());
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["unlock", "private"]).ok();
        alice.sh("diff -r --no-dereference source private/tree").ok();
        alice.sh("tar -C private -c tree | tar -C private -x --transform s/tree/again/ && diff -r --no-dereference source private/again").ok();
        alice.sh("grep -rq 'struct fuse_init_in' private/tree").ok();
        alice.sh("grep -rq 'struct fuse_init_in' Private").fails(1);
        assert_eq!(alice.sh("find Private -name '*fuse*'").ok(), "");
        alice.sh("rm -r private/again && mv private/tree private/renamed && diff -r --no-dereference source private/renamed").ok();
    }
}

story! {
    /// Building and running a program, appending, seeking, locking: nothing needs to know.
    fn programs_are_built_and_run_and_files_edited_in_place(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("cd private && printf '#include <stdio.h>\\nint main(void) { puts(\"hello\"); return 0; }\\n' >hello.c && gcc -o hello hello.c && ./hello | grep -q hello").ok();
        alice.sh("cd private && for i in $(seq 300); do echo line $i >>log; done && test $(wc -l <log) = 300 && tail -n 1 log | grep -q 'line 300'").ok();
        alice.sh("cd private && sed -i s/line/row/ log && grep -c '^row' log | grep -qx 300").ok();
        alice.sh("cd private && truncate -s 1M sparse && printf end | dd of=sparse bs=1 seek=1048573 conv=notrunc status=none && test $(stat -c %s sparse) = 1048576 && tail -c 3 sparse | grep -qx end").ok();
        alice.sh("cd private && flock log sh -c 'flock -n log true && exit 1; exit 0'").ok();
        alice.sh("cd private && setfattr -n user.mood -v good log && getfattr --only-values -n user.mood log | grep -qx good").ok();
        alice.sh("cd private && exec 3>gone && rm gone && echo still >&3 && test ! -e gone").ok();
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["verify", "Private"]).ok();
        alice.claviger(["mount", "Private", "private"]).ok();
        alice.sh("cd private && ./hello && getfattr --only-values -n user.mood log | grep -qx good && test $(wc -l <log) = 300").ok();
        assert_eq!(alice.sh("cd private && git init -q . && git add log && git -c user.name=a -c user.email=a@b commit -q -m one && git fsck 2>&1 && git show HEAD:log | head -n 1").ok(), "row 1\n");
    }
}

story! {
    /// What is not content is written after chmod(2) too, and takes no set-id bit away: content does.
    fn a_program_stays_set_user_id_until_it_is_changed(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("cd private && mkdir to && cp /bin/true program && chmod 6755 program && sync program && mv program to/").ok();
        assert_eq!(alice.sh("stat -c %a private/to/program").ok(), "6755\n");
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["unlock", "private"]).ok();
        alice.sh("cd private/to && ln program again && rm program && mv again program && ./program").ok();
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["mount", "Private", "private"]).ok();
        assert_eq!(alice.sh("stat -c %a private/to/program").ok(), "6755\n");
        alice.sh("echo >>private/to/program").ok();
        // Seen at once, too.
        assert_eq!(alice.sh("stat -c %a private/to/program").ok(), "755\n");
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["mount", "Private", "private"]).ok();
        assert_eq!(alice.sh("stat -c %a private/to/program").ok(), "755\n");
    }
}
