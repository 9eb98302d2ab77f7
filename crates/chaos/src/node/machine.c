/*
 * What is wrong with the machine that a node runs on, for as long as a test wants it: preloaded into the node.
 *
 *   MACHINE_CONTROL   a file of two 64-bit numbers of the machine's own byte order, read at every call:
 *                     nanoseconds by which the wall clock is wrong, and microseconds that every sync takes longer
 *
 * Only the wall clock is wrong: monotonic time goes on, as it does when an operator or NTP sets the clock. A wait until
 * a wall clock time is corrected, so that only what the program reads is wrong and not when the kernel wakes it.
 * Not for use with anything but tests.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

struct control {
    int64_t clock_ns;
    int64_t sync_us;
};

static volatile struct control *control;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    /* The plain name may give the version of before 2002. */
    real_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real_timedwait)
        real_timedwait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    const char *path = getenv("MACHINE_CONTROL");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED)
        control = mapped;
    close(fd);
}

static void shift(struct timespec *time, int64_t by) {
    int64_t all = (int64_t)time->tv_sec * SECOND + time->tv_nsec + by;
    time->tv_sec = (time_t)(all / SECOND);
    time->tv_nsec = (long)(all % SECOND);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    /* Other libraries' constructors may ask before ours has run. */
    if (!real_clock_gettime)
        real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real_clock_gettime(clock, now);
    if (result == 0 && control && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        shift(now, control->clock_ns);
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
        return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (to)
        *to = precise.tv_sec;
    return precise.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    struct timespec corrected = *until;
    if (control)
        shift(&corrected, -control->clock_ns);
    return real_timedwait(condition, mutex, &corrected);
}

static void slow(void) {
    if (control && control->sync_us > 0)
        usleep((useconds_t)control->sync_us);
}

int fsync(int fd) {
    slow();
    return real_fsync(fd);
}

int fdatasync(int fd) {
    slow();
    return real_fdatasync(fd);
}
