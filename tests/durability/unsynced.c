/*
 * Remembers what was synced: preloaded into a process, it keeps beside a directory a mirror of what a power cut would
 * leave of it. SIGKILL the process, put the mirror in the directory's place, and everything that was not synced is gone.
 *
 * Why: SIGKILL does not lose the page cache, so a hub that forgets a sync passes a plain kill test.
 *
 *   UNSYNCED_DIR           the directory, absolute, without symbolic links
 *   UNSYNCED_MIRROR        a missing directory on the same file system; afterwards UNSYNCED_MIRROR/tree is what is left
 *                          of UNSYNCED_DIR. Without UNSYNCED_MIRROR/made the process was killed before it did anything
 *   UNSYNCED_NAMES=eager   names are durable at once; otherwise only once their directory has been synced
 *   UNSYNCED_LIE=FILE      as soon as FILE exists, syncs succeed and keep nothing: a test must then find a loss, which
 *                          proves that it can
 *   UNSYNCED_FAIL=FILE     as soon as FILE exists, syncs fail with EIO
 *   UNSYNCED_FULL=FILE     as soon as FILE exists, write fails with ENOSPC
 *
 * Model, as a journaling file system behaves at its worst: bytes of a file are durable when fsync or fdatasync of the
 * file returns; its name when fsync of the directory returns (with `eager`, names are durable before the bytes are);
 * cutting a file short is durable at once. A kill in the middle of a sync leaves a part of it.
 * The mirror is derived from the files, not from the writes, so that it does not matter how bytes came into a file:
 * inodes/ holds the durable bytes of each file under its inode number and time of birth, tree/ has hard links to them.
 * What the process itself sees is never changed.
 *
 * Not modelled: new directories without a sync of their parent; changes in place, of bytes that were synced before, in
 * files above SMALL (pwrite there is refused, loudly); O_SYNC, syncfs, msync. Not for use with anything but tests.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* Files up to this size are mirrored whole at every sync, larger ones from the end of what was synced before. */
#define SMALL (64 << 10)

static const char *root, *mirror, *lie, *fail, *full;
static size_t root_length;
static int eager;
/* One change of the mirror at a time. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);
static int (*real_truncate)(const char *, off_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_rename)(const char *, const char *);
static int (*real_renameat)(int, const char *, int, const char *);
static int (*real_link)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_unlinkat)(int, const char *, int);

static void stop(const char *what, const char *path) {
    fprintf(stderr, "unsynced: %s %s: %s\n", what, path, strerror(errno));
    abort();
}

static void join(char *to, const char *folder, const char *name) {
    if (snprintf(to, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
        stop("path too long", name);
}

static int is_below_root(const char *path) {
    return root_length && strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || !path[root_length]);
}

/* The path of an open file, when it is below the root. */
static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = root_length ? readlink(link, path, PATH_MAX - 1) : -1;
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_below_root(path);
}

/* Where the durable bytes of a file are. Inode numbers are used again; with the time of birth they are not. */
static void content_of(const struct statx *about, char *path) {
    if (!(about->stx_mask & STATX_BTIME)) {
        errno = ENOTSUP;
        stop("times of birth on the file system of", root);
    }
    snprintf(path, PATH_MAX, "%s/inodes/%llu-%lld.%09u", mirror, (unsigned long long)about->stx_ino,
             (long long)about->stx_btime.tv_sec, about->stx_btime.tv_nsec);
}

static int look(int folder, const char *path, int flags, struct statx *about) {
    return statx(folder, path, flags, STATX_BASIC_STATS | STATX_BTIME, about) == 0;
}

static int open_content(const char *content, mode_t mode) {
    int fd = real_open(content, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || fchmod(fd, mode & 07777) != 0)
        stop("open", content);
    return fd;
}

/* Brings the durable bytes of a file up to the `about->stx_size` bytes that it had when its sync began. */
static void keep_bytes(const char *source, const struct statx *about) {
    static unsigned char buffer[1 << 16];
    char content[PATH_MAX];
    content_of(about, content);
    int to = open_content(content, about->stx_mode);
    int from = real_open(source, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        stop("open", source);
    off_t size = (off_t)about->stx_size;
    off_t at = size <= SMALL ? 0 : lseek(to, 0, SEEK_END);
    while (at < size) {
        size_t wanted = size - at < (off_t)sizeof buffer ? (size_t)(size - at) : sizeof buffer;
        ssize_t length = pread(from, buffer, wanted, at);
        /* It may have been cut short meanwhile. */
        if (length == 0)
            break;
        if (length < 0 || real_pwrite(to, buffer, (size_t)length, at) != length)
            stop("copy", source);
        at += length;
    }
    close(from);
    close(to);
}

/* What is cut off a file is gone at once. */
static void cut_bytes(const struct statx *about, off_t length) {
    char content[PATH_MAX];
    content_of(about, content);
    struct stat kept;
    pthread_mutex_lock(&lock);
    if (stat(content, &kept) == 0 && kept.st_size > length && real_truncate(content, length) != 0)
        stop("truncate", content);
    pthread_mutex_unlock(&lock);
}

static void keep_name(const struct statx *about, const char *name) {
    char content[PATH_MAX], draft[PATH_MAX];
    content_of(about, content);
    struct stat there, wanted;
    if (stat(content, &wanted) != 0) {
        close(open_content(content, about->stx_mode));
        if (stat(content, &wanted) != 0)
            stop("stat", content);
    }
    if (stat(name, &there) == 0 && there.st_ino == wanted.st_ino)
        return;
    join(draft, mirror, "draft");
    real_unlink(draft);
    if (real_link(content, draft) != 0 || real_rename(draft, name) != 0)
        stop("link", name);
}

static void forget_name(const char *name) {
    if (real_unlink(name) != 0 && (errno != EISDIR || rmdir(name) != 0) && errno != ENOTEMPTY)
        stop("remove", name);
}

/* Makes the names in `path`, a directory below the root, what they are now. */
static void keep_names(const char *path) {
    char tree[PATH_MAX], name[PATH_MAX], kept[PATH_MAX];
    snprintf(tree, PATH_MAX, "%s/tree%s", mirror, path + root_length);
    for (char *part = tree + strlen(mirror) + 1; part; part = strchr(part + 1, '/')) {
        char rest = *part;
        *part = 0;
        mkdir(tree, 0755);
        *part = rest;
    }
    mkdir(tree, 0755);
    DIR *folder = opendir(path);
    if (!folder)
        return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        struct statx about;
        join(name, path, entry->d_name);
        join(kept, tree, entry->d_name);
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            !look(AT_FDCWD, name, AT_SYMLINK_NOFOLLOW, &about))
            continue;
        if (S_ISDIR(about.stx_mode))
            mkdir(kept, 0755);
        else if (S_ISREG(about.stx_mode))
            keep_name(&about, kept);
    }
    closedir(folder);
    folder = opendir(tree);
    if (!folder)
        stop("open", tree);
    for (struct dirent *entry; (entry = readdir(folder));) {
        struct stat about;
        join(name, path, entry->d_name);
        join(kept, tree, entry->d_name);
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && lstat(name, &about) != 0)
            forget_name(kept);
    }
    closedir(folder);
}

/* Mirrors what is there at the start: all of it is durable. Table files never change, so that links will do. */
static void keep_all(const char *path) {
    DIR *folder = opendir(path);
    if (!folder)
        return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char name[PATH_MAX], content[PATH_MAX];
        struct statx about;
        join(name, path, entry->d_name);
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            !look(AT_FDCWD, name, AT_SYMLINK_NOFOLLOW, &about))
            continue;
        if (S_ISDIR(about.stx_mode)) {
            keep_all(name);
        } else if (S_ISREG(about.stx_mode)) {
            size_t length = strlen(name);
            content_of(&about, content);
            if (length < 4 || strcmp(name + length - 4, ".sst") != 0 || real_link(name, content) != 0)
                keep_bytes(name, &about);
        }
    }
    closedir(folder);
    keep_names(path);
}

static void resolve(void) {
    real_open = dlsym(RTLD_NEXT, "open64");
    real_openat = dlsym(RTLD_NEXT, "openat64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_truncate = dlsym(RTLD_NEXT, "truncate64");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_rename = dlsym(RTLD_NEXT, "rename");
    real_renameat = dlsym(RTLD_NEXT, "renameat");
    real_link = dlsym(RTLD_NEXT, "link");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_unlinkat = dlsym(RTLD_NEXT, "unlinkat");
}

__attribute__((constructor)) static void begin(void) {
    resolve();
    const char *names = getenv("UNSYNCED_NAMES");
    eager = names && strcmp(names, "eager") == 0;
    lie = getenv("UNSYNCED_LIE");
    fail = getenv("UNSYNCED_FAIL");
    full = getenv("UNSYNCED_FULL");
    mirror = getenv("UNSYNCED_MIRROR");
    root = getenv("UNSYNCED_DIR");
    if (!root || !mirror)
        return;
    char path[PATH_MAX];
    mkdir(mirror, 0755);
    join(path, mirror, "inodes");
    mkdir(path, 0755);
    join(path, mirror, "tree");
    /* A child of the process finds the mirror made. */
    int is_first = mkdir(path, 0755) == 0;
    root_length = strlen(root);
    if (is_first) {
        keep_all(root);
        join(path, mirror, "made");
        close(real_open(path, O_WRONLY | O_CREAT, 0644));
    }
}

/* A test switches a fault on by making a file. */
static int is_on(const char *file) { return file && access(file, F_OK) == 0; }

static int synced(int fd, int (*sync)(int)) {
    char path[PATH_MAX], source[64];
    struct statx about;
    if (!path_of(fd, path))
        return sync(fd);
    if (is_on(fail)) {
        errno = EIO;
        return -1;
    }
    if (is_on(lie))
        return 0;
    /* Before the sync: what is written while it runs is not promised. */
    if (!look(fd, "", AT_EMPTY_PATH, &about))
        stop("stat", path);
    int result = sync(fd);
    if (result != 0)
        return result;
    pthread_mutex_lock(&lock);
    snprintf(source, sizeof source, "/proc/self/fd/%d", fd);
    if (S_ISREG(about.stx_mode))
        keep_bytes(source, &about);
    else if (S_ISDIR(about.stx_mode))
        keep_names(path);
    pthread_mutex_unlock(&lock);
    return 0;
}

int fsync(int fd) { return synced(fd, real_fsync); }
int fdatasync(int fd) { return synced(fd, real_fdatasync); }

/* The folder of `path`, when that is below the root. */
static int folder_of(int at, const char *path, char *folder) {
    if (!root_length)
        return 0;
    if (path[0] == '/')
        snprintf(folder, PATH_MAX, "%s", path);
    else if (at == AT_FDCWD || !path_of(at, folder) || strlen(folder) + strlen(path) + 2 > PATH_MAX)
        return 0;
    else
        strcat(strcat(folder, "/"), path);
    char *slash = strrchr(folder, '/');
    *slash = 0;
    return is_below_root(folder);
}

static void named(int at, const char *path) {
    char folder[PATH_MAX];
    int error = errno;
    if (eager && !is_on(lie) && folder_of(at, path, folder)) {
        pthread_mutex_lock(&lock);
        keep_names(folder);
        pthread_mutex_unlock(&lock);
    }
    errno = error;
}

static int opened(int fd, int at, const char *path, int flags) {
    char place[PATH_MAX];
    struct statx about;
    if (fd < 0 || !(flags & (O_CREAT | O_TRUNC | O_SYNC | O_DSYNC)) || !path_of(fd, place))
        return fd;
    if (flags & (O_SYNC | O_DSYNC) & ~O_CREAT) {
        errno = ENOTSUP;
        stop("O_SYNC for", place);
    }
    if ((flags & O_TRUNC) && look(fd, "", AT_EMPTY_PATH, &about) && S_ISREG(about.stx_mode))
        cut_bytes(&about, 0);
    if (flags & O_CREAT)
        named(at, path);
    return fd;
}

/* The argument behind the flags, when there is one. Other libraries' constructors may come here before ours has run. */
#define MODE                                                                                                           \
    mode_t mode = 0;                                                                                                   \
    if (!real_open)                                                                                                    \
        resolve();                                                                                                     \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                               \
        va_list arguments;                                                                                             \
        va_start(arguments, flags);                                                                                    \
        mode = va_arg(arguments, mode_t);                                                                              \
        va_end(arguments);                                                                                             \
    }

int open(const char *path, int flags, ...) {
    MODE return opened(real_open(path, flags, mode), AT_FDCWD, path, flags);
}
int open64(const char *path, int flags, ...) {
    MODE return opened(real_open(path, flags, mode), AT_FDCWD, path, flags);
}
int openat(int at, const char *path, int flags, ...) {
    MODE return opened(real_openat(at, path, flags, mode), at, path, flags);
}
int openat64(int at, const char *path, int flags, ...) {
    MODE return opened(real_openat(at, path, flags, mode), at, path, flags);
}

static int truncated(int fd, off_t length) {
    char path[PATH_MAX];
    struct statx about;
    int result = real_ftruncate(fd, length);
    if (result == 0 && path_of(fd, path) && look(fd, "", AT_EMPTY_PATH, &about))
        cut_bytes(&about, length);
    return result;
}

int ftruncate(int fd, off_t length) { return truncated(fd, length); }
int ftruncate64(int fd, off_t length) { return truncated(fd, length); }

ssize_t write(int fd, const void *bytes, size_t length) {
    char path[PATH_MAX];
    if (!real_write)
        resolve();
    if (full && path_of(fd, path) && is_on(full)) {
        errno = ENOSPC;
        return -1;
    }
    return real_write(fd, bytes, length);
}

static ssize_t written_at(int fd, const void *bytes, size_t length, off_t at) {
    char path[PATH_MAX], content[PATH_MAX];
    struct statx about;
    struct stat kept;
    if (path_of(fd, path) && look(fd, "", AT_EMPTY_PATH, &about) && about.stx_size > SMALL) {
        content_of(&about, content);
        if (stat(content, &kept) == 0 && at < kept.st_size) {
            errno = ENOTSUP;
            stop("change in place of", path);
        }
    }
    return real_pwrite(fd, bytes, length, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return written_at(fd, bytes, length, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at) { return written_at(fd, bytes, length, at); }

int syncfs(int fd) {
    char path[PATH_MAX];
    if (path_of(fd, path)) {
        errno = ENOTSUP;
        stop("syncfs of", path);
    }
    return 0;
}

int rename(const char *from, const char *to) {
    int result = real_rename(from, to);
    if (result == 0) {
        named(AT_FDCWD, to);
        named(AT_FDCWD, from);
    }
    return result;
}

int renameat(int from_at, const char *from, int to_at, const char *to) {
    int result = real_renameat(from_at, from, to_at, to);
    if (result == 0) {
        named(to_at, to);
        named(from_at, from);
    }
    return result;
}

int link(const char *from, const char *to) {
    int result = real_link(from, to);
    if (result == 0)
        named(AT_FDCWD, to);
    return result;
}

int unlink(const char *path) {
    int result = real_unlink(path);
    if (result == 0)
        named(AT_FDCWD, path);
    return result;
}

int unlinkat(int at, const char *path, int flags) {
    int result = real_unlinkat(at, path, flags);
    if (result == 0)
        named(at, path);
    return result;
}
