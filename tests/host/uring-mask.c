/*
 * Makes a kernel look older, or short of memory, to a program that uses
 * io_uring; to be preloaded
 *
 * URING_MASK is a list of what the kernel is not to have:
 *
 *   single_issuer, defer_taskrun, submit_all, cqsize   flags of io_uring_setup
 *   ext_arg, no_iowait, sqpoll_nonfixed                features
 *   all                                                all of these
 *
 * URING_FAIL is a list of failures, each STEP:N:ERRNO or short:N:
 *
 *   setup:N:ERRNO     the Nth creation of a ring fails; with N+, later ones too
 *   enter:N:ERRNO     each Nth system call that submits requests fails, and
 *                     submits nothing; with EINTR those that only wait as well
 *   short:N           each Nth read or write, of one buffer of 1 KiB at least,
 *                     transfers only half
 *
 * Flags are refused as the kernel refuses those that it does not know.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <liburing.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel's, in case liburing is older. */
#define SETUP_CQSIZE (1U << 3)
#define SETUP_SUBMIT_ALL (1U << 7)
#define SETUP_SINGLE_ISSUER (1U << 12)
#define SETUP_DEFER_TASKRUN (1U << 13)
#define FEAT_SQPOLL_NONFIXED (1U << 7)
#define FEAT_EXT_ARG (1U << 8)
#define FEAT_NO_IOWAIT (1U << 17)
#define ENTER_EXT_ARG (1U << 3)
#define ENTER_NO_IOWAIT (1U << 7)

static const struct {
    const char *name;
    unsigned setup_flag;
    unsigned feature;
    unsigned enter_flag;
} known[] = {
    { "single_issuer", SETUP_SINGLE_ISSUER, 0, 0 },
    { "defer_taskrun", SETUP_DEFER_TASKRUN, 0, 0 },
    { "submit_all", SETUP_SUBMIT_ALL, 0, 0 },
    { "cqsize", SETUP_CQSIZE, 0, 0 },
    /* no kernel has the latter without the former */
    { "ext_arg", 0, FEAT_EXT_ARG | FEAT_NO_IOWAIT,
      ENTER_EXT_ARG | ENTER_NO_IOWAIT },
    { "no_iowait", 0, FEAT_NO_IOWAIT, ENTER_NO_IOWAIT },
    { "sqpoll_nonfixed", 0, FEAT_SQPOLL_NONFIXED, 0 },
};

static const struct {
    const char *name;
    int value;
} errnos[] = {
    { "EAGAIN", EAGAIN }, { "EBUSY", EBUSY }, { "EINTR", EINTR },
    { "EMFILE", EMFILE }, { "ENOMEM", ENOMEM }, { "ENOSYS", ENOSYS },
    { "EPERM", EPERM },
};

#define SECTOR 512

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static unsigned no_setup_flags, no_features, no_enter_flags;

typedef struct {
    unsigned n;         /* 0: never */
    int error;
    bool later_too;
    atomic_uint count;
} Failure;

static Failure setup_failure, enter_failure, short_failure;

static __typeof__(&io_uring_queue_init_params) real_init;
static __typeof__(&io_uring_submit) real_submit;
static __typeof__(&io_uring_submit) real_submit_events;
static __typeof__(&io_uring_submit_and_wait_timeout) real_wait;
static long (*real_syscall)(long, ...);

static void reject(const char *variable, const char *value, const char *accepts)
{
    fprintf(stderr, "uring-mask: %s: '%s' is not %s\n", variable, value,
            accepts);
    _exit(2);
}

static void mask(const char *name)
{
    bool found = false;

    for (size_t i = 0; i < LENGTH(known); i++) {
        if (!strcmp(name, known[i].name) || !strcmp(name, "all")) {
            no_setup_flags |= known[i].setup_flag;
            no_features |= known[i].feature;
            no_enter_flags |= known[i].enter_flag;
            found = true;
        }
    }
    if (!found) {
        reject("URING_MASK", name, "single_issuer, defer_taskrun, submit_all, "
               "cqsize, ext_arg, no_iowait, sqpoll_nonfixed or all");
    }
}

static void add_failure(const char *word)
{
    static const char accepts[] = "setup:N[+]:ERRNO, enter:N:ERRNO or short:N, "
        "with ERRNO one of EAGAIN, EBUSY, EINTR, EMFILE, ENOMEM, ENOSYS, EPERM";
    Failure *f = !strncmp(word, "setup:", 6) ? &setup_failure :
                 !strncmp(word, "enter:", 6) ? &enter_failure :
                 !strncmp(word, "short:", 6) ? &short_failure : NULL;
    char *end;
    unsigned long n;

    if (!f || word[6] < '1' || word[6] > '9') {
        reject("URING_FAIL", word, accepts);
    }
    n = strtoul(word + 6, &end, 10);
    f->later_too = f == &setup_failure && *end == '+';
    end += f->later_too;
    for (size_t i = 0; *end == ':' && i < LENGTH(errnos); i++) {
        if (!strcmp(end + 1, errnos[i].name)) {
            f->error = errnos[i].value;
        }
    }
    if ((f == &short_failure ? *end : !f->error) || n > 1000000) {
        reject("URING_FAIL", word, accepts);
    }
    f->n = n;
}

static void for_each_word(const char *variable, void (*fn)(const char *))
{
    const char *value = getenv(variable);
    char *words = value ? strdup(value) : NULL;
    char *rest = words;
    char *word;

    while (rest && (word = strsep(&rest, ","))) {
        fn(word);
    }
    free(words);
}

static void *find(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static void __attribute__((constructor)) setup(void)
{
    for_each_word("URING_MASK", mask);
    for_each_word("URING_FAIL", add_failure);
}

/* Interposed functions may be called before the constructor has run. */
static void resolve(void *function, const char *name)
{
    void **slot = function;

    if (!*slot) {
        *slot = find(name);
    }
    if (!*slot) {
        fprintf(stderr, "uring-mask: the program has no %s()\n", name);
        abort();
    }
}

int io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                               struct io_uring_params *p)
{
    unsigned n;
    int ret;

    resolve(&real_init, "io_uring_queue_init_params");
    if (p->flags & no_setup_flags) {
        return -EINVAL;
    }
    n = atomic_fetch_add(&setup_failure.count, 1) + 1;
    if (setup_failure.n && (n == setup_failure.n ||
                            (setup_failure.later_too && n > setup_failure.n))) {
        return -setup_failure.error;
    }
    ret = real_init(entries, ring, p);
    if (ret == 0) {
        p->features &= ~no_features;
        ring->features &= ~no_features;
    }
    return ret;
}

int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
    struct io_uring_params p = { .flags = flags };

    return io_uring_queue_init_params(entries, ring, &p);
}

/* Is this system call, which submits requests or only waits, to fail? */
static bool enter_fails(bool submits)
{
    if (!enter_failure.n || (!submits && enter_failure.error != EINTR)) {
        return false;
    }
    return (atomic_fetch_add(&enter_failure.count, 1) + 1) %
           enter_failure.n == 0;
}

/* Of what is submitted now, let some transfer less than was asked for. */
static void shorten(struct io_uring *ring)
{
    if (!short_failure.n) {
        return;
    }
    for (unsigned i = ring->sq.sqe_head; i != ring->sq.sqe_tail; i++) {
        struct io_uring_sqe *sqe = &ring->sq.sqes[i & *ring->sq.kring_mask];

        if ((sqe->opcode == IORING_OP_READ || sqe->opcode == IORING_OP_WRITE) &&
            sqe->len >= 2 * SECTOR &&
            (atomic_fetch_add(&short_failure.count, 1) + 1) %
            short_failure.n == 0) {
            sqe->len = sqe->len / 2 / SECTOR * SECTOR;
        }
    }
}

int io_uring_submit(struct io_uring *ring)
{
    resolve(&real_submit, "io_uring_submit");
    shorten(ring);
    return enter_fails(io_uring_sq_ready(ring)) ? -enter_failure.error
                                                : real_submit(ring);
}

int io_uring_submit_and_get_events(struct io_uring *ring)
{
    resolve(&real_submit_events, "io_uring_submit_and_get_events");
    shorten(ring);
    return enter_fails(io_uring_sq_ready(ring)) ? -enter_failure.error
                                                : real_submit_events(ring);
}

int io_uring_submit_and_wait_timeout(struct io_uring *ring,
                                     struct io_uring_cqe **cqe,
                                     unsigned wait_nr,
                                     struct __kernel_timespec *ts,
                                     sigset_t *sigmask)
{
    resolve(&real_wait, "io_uring_submit_and_wait_timeout");
    shorten(ring);
    return enter_fails(io_uring_sq_ready(ring))
           ? -enter_failure.error
           : real_wait(ring, cqe, wait_nr, ts, sigmask);
}

long syscall(long number, ...)
{
    long arg[6];
    va_list ap;

    resolve(&real_syscall, "syscall");
    va_start(ap, number);
    for (size_t i = 0; i < LENGTH(arg); i++) {
        arg[i] = va_arg(ap, long);
    }
    va_end(ap);

    if (number == __NR_io_uring_enter) {
        if (arg[3] & no_enter_flags) {
            errno = EINVAL;
            return -1;
        }
        if (enter_fails(arg[1])) {
            errno = enter_failure.error;
            return -1;
        }
    }
    return real_syscall(number, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
}
