/*
 * The io_uring of an AioContext, with real rings
 *
 * What may never happen is that a request or an event is lost, or seen twice:
 * not when there are more of them than the ring has room for, nor when signals
 * come, descriptors are added and removed in another thread, or the ring is
 * exchanged for another one.  A lost one shows as a hang, which alarm(2) ends.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <sys/resource.h>
#include "block/aio.h"
#include "iothread.h"
#include "qapi/error.h"
#include "qemu/aio-stats.h"
#include "qemu/coroutine.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/thread.h"
#include "qemu/timer.h"

#define LIMIT_S 60 /* only a hang takes this long */
#define MAX_STACK (64 * 1024)

/* More than the ring has SQEs, and CQEs, for */
#define MANY 6000

static AioContext *main_ctx;

/* Run @fn in the thread of @ctx and wait for it to return. */
typedef struct {
    void (*fn)(void *opaque);
    void *opaque;
    QemuEvent done;
} Call;

static void call_bh(void *opaque)
{
    Call *call = opaque;

    call->fn(call->opaque);
    qemu_event_set(&call->done);
}

static void call_in(AioContext *ctx, void (*fn)(void *opaque), void *opaque)
{
    Call call = { .fn = fn, .opaque = opaque };

    if (ctx == main_ctx) {
        fn(opaque);
        return;
    }
    qemu_event_init(&call.done, false);
    aio_bh_schedule_oneshot(ctx, call_bh, &call);
    qemu_event_wait(&call.done);
    qemu_event_destroy(&call.done);
}

/* @fn runs an event loop until it has got what it waits for. */
static void in_both(void (*fn)(void *opaque))
{
    IOThread *iothread = iothread_new();

    alarm(LIMIT_S);
    fn(main_ctx);
    call_in(iothread_get_aio_context(iothread), fn,
            iothread_get_aio_context(iothread));
    iothread_join(iothread);
    alarm(0);
}

/*
 * Threads of the kernel submit what is in the ring (SQPOLL).  They fall asleep
 * all the time, so that they have to be woken up.
 */
#define SQPOLL_IDLE_MS 1

static bool have_sqpoll;

static bool is_sqpoll(AioContext *ctx)
{
    return ctx->fdmon_io_uring.flags & IORING_SETUP_SQPOLL;
}

static void test_sqpoll(const void *opaque)
{
    void (*fn)(void *opaque) = opaque;
    IOThread *iothread;

    if (!have_sqpoll) {
        g_test_skip("no SQPOLL");
        return;
    }
    iothread = iothread_new_sqpoll(SQPOLL_IDLE_MS);
    g_assert_true(is_sqpoll(iothread_get_aio_context(iothread)));
    alarm(LIMIT_S);
    call_in(iothread_get_aio_context(iothread), fn,
            iothread_get_aio_context(iothread));
    iothread_join(iothread);
    alarm(0);
}

typedef struct {
    CqeHandler handler;
    int fd;         /* -1: NOP */
    char byte;
    uint64_t offset;
    int result;
    unsigned completed;
    unsigned *total;
} Request;

static void prep_request(struct io_uring_sqe *sqe, void *opaque)
{
    Request *req = opaque;

    if (req->fd < 0) {
        io_uring_prep_nop(sqe);
    } else {
        io_uring_prep_read(sqe, req->fd, &req->byte, 1, req->offset);
    }
}

static void request_cb(CqeHandler *handler)
{
    Request *req = container_of(handler, Request, handler);

    req->result = handler->cqe.res;
    req->completed++;
    if (req->total) {
        (*req->total)++;
    }
}

static void request_start(Request *req)
{
    req->handler.cb = req->handler.cb ?: request_cb;
    aio_add_sqe(prep_request, req, &req->handler);
}

/* Many requests at once */

static int make_file(void)
{
    g_autofree char *name = NULL;
    int fd = g_file_open_tmp("qtest-fdmon-XXXXXX", &name, NULL);
    char data[256];

    g_assert_cmpint(fd, >=, 0);
    unlink(name);
    for (int i = 0; i < sizeof(data); i++) {
        data[i] = i;
    }
    g_assert_cmpint(write(fd, data, sizeof(data)), ==, sizeof(data));
    return fd;
}

static void many(void *opaque)
{
    AioContext *ctx = opaque;
    Request *reqs = g_new0(Request, MANY);
    unsigned total = 0;
    int fd = make_file();
    bool all_submitted;

    for (int i = 0; i < MANY; i++) {
        reqs[i].fd = i % 3 == 0 ? fd : -1;
        reqs[i].offset = i % 256;
        reqs[i].total = &total;
        request_start(&reqs[i]);
    }
    g_assert_cmpuint(total, ==, 0);
    /* unless the kernel is short of memory, or has not come to them */
    all_submitted = QSIMPLEQ_EMPTY(&ctx->sqe_backlog) && !is_sqpoll(ctx);
    while (total < MANY) {
        aio_poll(ctx, true);
    }
    /* nothing comes twice */
    aio_poll(ctx, false);
    for (int i = 0; i < MANY; i++) {
        g_assert_cmpuint(reqs[i].completed, ==, 1);
        g_assert_cmpint(reqs[i].result, ==, reqs[i].fd < 0 ? 0 : 1);
        g_assert_cmpint((uint8_t)reqs[i].byte, ==,
                        reqs[i].fd < 0 ? 0 : i % 256);
    }
    if (all_submitted) {
        g_assert_cmpuint(ctx->stats->data.io_uring_cq_overflows, >, 0);
    }
    g_assert_cmpuint(ctx->cqes_due, ==, 0);
    close(fd);
    g_free(reqs);
}

static void test_many(void)
{
    in_both(many);
}

/* A handler that starts the next request */

typedef struct {
    Request req;
    unsigned left;
    char *base;
    size_t depth;
    Coroutine *co;
} Chain;

static void note_depth(Chain *chain)
{
    char *here = __builtin_frame_address(0);

    if (!chain->base) {
        chain->base = here;
    }
    chain->depth = MAX(chain->depth,
                       here < chain->base ? chain->base - here : 0);
}

static void chain_cb(CqeHandler *handler)
{
    Chain *chain = container_of(handler, Chain, req.handler);

    note_depth(chain);
    if (--chain->left) {
        request_start(&chain->req);
    }
}

static void chain_start(Chain *chain, unsigned length)
{
    *chain = (Chain) {
        .req = { .fd = -1, .handler.cb = chain_cb },
        .left = length,
    };
    request_start(&chain->req);
}

static void chain_co_cb(CqeHandler *handler)
{
    Chain *chain = container_of(handler, Chain, req.handler);

    note_depth(chain);
    aio_co_wake(chain->co);
}

static void coroutine_fn chain_co(void *opaque)
{
    Chain *chain = opaque;

    while (chain->left) {
        request_start(&chain->req);
        qemu_coroutine_yield();
        chain->left--;
    }
}

static void deep(void *opaque)
{
    AioContext *ctx = opaque;
    /* each takes two changes of threads there */
    unsigned length = is_sqpoll(ctx) ? 5000 : 100000;
    Chain chain;

    chain_start(&chain, length);
    while (chain.left) {
        aio_poll(ctx, true);
    }
    g_assert_cmpuint(chain.depth, <, MAX_STACK);

    chain = (Chain) {
        .req = { .fd = -1, .handler.cb = chain_co_cb },
        .left = length,
        .co = qemu_coroutine_create(chain_co, &chain),
    };
    qemu_coroutine_enter(chain.co);
    while (chain.left) {
        aio_poll(ctx, true);
    }
    g_assert_cmpuint(chain.depth, <, MAX_STACK);
}

static void test_deep(void)
{
    in_both(deep);
}

/* A handler with an event loop of its own */

typedef struct {
    Request req[2];
    AioContext *ctx;
    unsigned total;
} Nested;

static void nested_cb(CqeHandler *handler)
{
    Nested *n = container_of(handler, Nested, req[0].handler);

    while (!n->req[1].completed) {
        aio_poll(n->ctx, true);
    }
    n->total++;
}

static void nested(void *opaque)
{
    Nested n = { .ctx = opaque };

    n.req[0].fd = n.req[1].fd = -1;
    n.req[0].handler.cb = nested_cb;
    request_start(&n.req[0]);
    request_start(&n.req[1]);
    while (!n.total) {
        aio_poll(n.ctx, true);
    }
    g_assert_cmpuint(n.req[1].completed, ==, 1);
}

static void test_nested(void)
{
    in_both(nested);
}

/* Timers */

static void timer_cb(void *opaque)
{
    ++*(unsigned *)opaque;
}

static void timers(void *opaque)
{
    AioContext *ctx = opaque;
    unsigned fired = 0;
    QEMUTimer *timer = aio_timer_new(ctx, QEMU_CLOCK_REALTIME, SCALE_NS,
                                     timer_cb, &fired);
    int pair[2];
    Request req = {};

    g_assert_true(g_unix_open_pipe(pair, FD_CLOEXEC, NULL));
    for (unsigned i = 1; i <= 60; i++) {
        /* alone, and with a request that goes on for longer */
        if (i == 30) {
            req.fd = pair[0];
            request_start(&req);
        }
        timer_mod(timer, qemu_clock_get_ns(QEMU_CLOCK_REALTIME) +
                         i % 3 * SCALE_MS / 2);
        while (fired < i) {
            aio_poll(ctx, true);
        }
        g_assert_cmpuint(fired, ==, i);
    }
    g_assert_cmpuint(req.completed, ==, 0);
    g_assert_cmpint(write(pair[1], "x", 1), ==, 1);
    while (!req.completed) {
        aio_poll(ctx, true);
    }
    g_assert_cmpint(req.byte, ==, 'x');
    timer_free(timer);
    close(pair[0]);
    close(pair[1]);
}

static void test_timers(void)
{
    in_both(timers);
}

/* aio_notify() ends a wait, whatever the wait is for */

typedef struct {
    AioContext *ctx;
    QemuEvent waiting;
    QemuEvent woken;
    unsigned rounds;
    unsigned notified; /* atomic */
    int pipe[2];
    Request req;
} Notify;

static void *notify_thread(void *opaque)
{
    Notify *n = opaque;

    for (unsigned i = 0; i < n->rounds; i++) {
        qemu_event_wait(&n->waiting);
        qemu_event_reset(&n->waiting);
        if (i % 2) {
            g_usleep(100);      /* when it sleeps, and before */
        }
        qatomic_inc(&n->notified);
        aio_notify(n->ctx);
        qemu_event_wait(&n->woken);
        qemu_event_reset(&n->woken);
    }
    return NULL;
}

static void notify(void *opaque)
{
    Notify n = { .ctx = opaque, .rounds = 1000 };
    QemuThread thread;

    qemu_event_init(&n.waiting, false);
    qemu_event_init(&n.woken, false);
    g_assert_true(g_unix_open_pipe(n.pipe, FD_CLOEXEC, NULL));
    qemu_thread_create(&thread, "notify", notify_thread, &n,
                       QEMU_THREAD_JOINABLE);
    for (unsigned i = 0; i < n.rounds; i++) {
        if (i == n.rounds / 2) {
            n.req.fd = n.pipe[0];
            request_start(&n.req);
        }
        aio_poll(n.ctx, false);
        qemu_event_set(&n.waiting);
        while (qatomic_read(&n.notified) == i) {
            aio_poll(n.ctx, true);      /* signals end it as well */
        }
        qemu_event_set(&n.woken);
    }
    qemu_thread_join(&thread);
    g_assert_cmpint(write(n.pipe[1], "x", 1), ==, 1);
    while (!n.req.completed) {
        aio_poll(n.ctx, true);
    }
    close(n.pipe[0]);
    close(n.pipe[1]);
    qemu_event_destroy(&n.waiting);
    qemu_event_destroy(&n.woken);
}

static void test_notify(void)
{
    in_both(notify);
}

/* Handlers that another thread adds, changes and removes */

typedef struct {
    EventNotifier e;
    unsigned seen; /* atomic */
} Watched;

static void watched_cb(EventNotifier *e)
{
    Watched *w = container_of(e, Watched, e);

    if (event_notifier_test_and_clear(e)) {
        qatomic_inc(&w->seen);
    }
}

#ifdef IORING_SQ_TASKRUN
typedef struct {
    Watched w;
    bool ready; /* for polling only */
} Polled;

static bool polled_poll(void *opaque)
{
    return container_of((EventNotifier *)opaque, Polled, w.e)->ready;
}

static void polled_ready(EventNotifier *e)
{
    Polled *p = container_of(e, Polled, w.e);

    p->ready = false;
    qatomic_inc(&p->w.seen);
}

/*
 * The kernel may leave the flag behind that says that completions wait.  As
 * long as it was believed the loop neither polled nor waited.
 */
static void stale_flag(void *opaque)
{
    AioContext *ctx = opaque;
    Polled p = { 0 };
    uint64_t limit_ns = 0;

    aio_context_set_poll_params(ctx, 100 * SCALE_MS, 0, 0, &error_abort);
    g_assert_cmpint(event_notifier_init(&p.w.e, 0), ==, 0);
    aio_set_event_notifier(ctx, &p.w.e, watched_cb, polled_poll, polled_ready);

    /* It is polled after some events. */
    for (unsigned n = 1; !limit_ns; n++) {
        event_notifier_set(&p.w.e);
        while (p.w.seen < n) {
            aio_poll(ctx, true);
        }
        aio_get_poll_limits(ctx, event_notifier_get_fd(&p.w.e), &limit_ns, 1);
    }

    p.w.seen = 0;
    p.ready = true;
    qatomic_or(ctx->fdmon_io_uring.sq.kflags, IORING_SQ_TASKRUN);
    while (!p.w.seen) {
        aio_poll(ctx, true);
    }

    aio_set_event_notifier(ctx, &p.w.e, NULL, NULL, NULL);
    event_notifier_cleanup(&p.w.e);
    aio_context_set_poll_params(ctx, 0, 0, 0, &error_abort);
}

static void test_stale_flag(void)
{
    IOThread *iothread = iothread_new();
    AioContext *ctx = iothread_get_aio_context(iothread);

    if (ctx->fdmon_io_uring.flags & IORING_SETUP_DEFER_TASKRUN) {
        alarm(LIMIT_S);
        call_in(ctx, stale_flag, ctx);
        alarm(0);
    } else {
        /* no one sets it there, so no one clears it */
        g_test_skip("no IORING_SETUP_DEFER_TASKRUN");
    }
    iothread_join(iothread);
}
#endif

static void fd_cb(void *opaque)
{
    qatomic_inc((unsigned *)opaque);
}

static void read_cb(void *opaque)
{
    int *fd = opaque;
    char c;

    /* another wake-up may have taken it */
    g_assert_true(read(*fd, &c, 1) == 1 || errno == EAGAIN);
    fd_cb(fd + 2);
}

static void wait_for(unsigned *counter, unsigned value)
{
    while (qatomic_read(counter) < value) {
        g_usleep(10);
    }
}

static void nothing(void *opaque)
{
}

static void stop_chain(void *opaque)
{
    Chain *chain = opaque;

    chain->left = 1;
}

static void start_endless(void *opaque)
{
    chain_start(opaque, UINT_MAX);
}

static void handlers(IOThread *iothread)
{
    AioContext *ctx = iothread_get_aio_context(iothread);
    Watched w[8] = {};
    struct {
        int fd[2];
        unsigned readable;
        unsigned writable;
    } s = {};
    Chain chain;

    alarm(LIMIT_S);
    call_in(ctx, start_endless, &chain);
    for (unsigned i = 0; i < ARRAY_SIZE(w); i++) {
        g_assert_cmpint(event_notifier_init(&w[i].e, false), ==, 0);
    }
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s.fd),
                    ==, 0);

    for (unsigned round = 1; round <= 200; round++) {
        for (unsigned i = 0; i < ARRAY_SIZE(w); i++) {
            aio_set_event_notifier(ctx, &w[i].e, watched_cb, NULL, NULL);
            if (i % 2) {
                /* replaced, while the first one may not be watched yet */
                aio_set_event_notifier(ctx, &w[i].e, watched_cb, NULL, NULL);
            }
            if (i % 4 == 3) {
                aio_set_event_notifier(ctx, &w[i].e, NULL, NULL, NULL);
                aio_set_event_notifier(ctx, &w[i].e, watched_cb, NULL, NULL);
            }
            event_notifier_set(&w[i].e);
        }
        for (unsigned i = 0; i < ARRAY_SIZE(w); i++) {
            wait_for(&w[i].seen, round);
            aio_set_event_notifier(ctx, &w[i].e, NULL, NULL, NULL);
            /* no one looks at it any more */
            event_notifier_set(&w[i].e);
        }
        call_in(ctx, nothing, NULL);
        for (unsigned i = 0; i < ARRAY_SIZE(w); i++) {
            g_assert_cmpuint(qatomic_read(&w[i].seen), ==, round);
            event_notifier_test_and_clear(&w[i].e);
        }

        /* readable, then readable and writable, then removed */
        qatomic_set(&s.readable, 0);
        qatomic_set(&s.writable, 0);
        aio_set_fd_handler(ctx, s.fd[0], read_cb, NULL, NULL, NULL, &s);
        g_assert_cmpint(write(s.fd[1], "a", 1), ==, 1);
        wait_for(&s.readable, 1);
        aio_set_fd_handler(ctx, s.fd[0], NULL, fd_cb, NULL, NULL,
                           &s.writable);
        wait_for(&s.writable, 1);
        aio_set_fd_handler(ctx, s.fd[0], NULL, NULL, NULL, NULL, NULL);
        call_in(ctx, nothing, NULL);
        g_assert_cmpint(recv(s.fd[0], &(char){ 0 }, 1, 0), ==, -1);
    }

    call_in(ctx, stop_chain, &chain);
    call_in(ctx, nothing, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(w); i++) {
        event_notifier_cleanup(&w[i].e);
    }
    close(s.fd[0]);
    close(s.fd[1]);
    while (qatomic_read(&chain.left)) {
        g_usleep(10);
    }
    iothread_join(iothread);
    alarm(0);
}

static void test_handlers(void)
{
    handlers(iothread_new());
}

static void test_sqpoll_handlers(void)
{
    if (!have_sqpoll) {
        g_test_skip("no SQPOLL");
        return;
    }
    handlers(iothread_new_sqpoll(SQPOLL_IDLE_MS));
}

/* Signals */

static void on_signal(int signum)
{
}

typedef struct {
    pthread_t target;
    bool stop; /* atomic */
} Signals;

static void *signal_thread(void *opaque)
{
    Signals *s = opaque;

    while (!qatomic_read(&s->stop)) {
        pthread_kill(s->target, SIGUSR1);
        g_usleep(50);
    }
    return NULL;
}

static void signals(void *opaque)
{
    Signals s = { .target = pthread_self() };
    struct sigaction act = { .sa_handler = on_signal }; /* no SA_RESTART */
    QemuThread thread;
    sigset_t set, old;

    sigaction(SIGUSR1, &act, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &set, &old);
    qemu_thread_create(&thread, "signals", signal_thread, &s,
                       QEMU_THREAD_JOINABLE);
    timers(opaque);
    notify(opaque);
    many(opaque);
    qatomic_set(&s.stop, true);
    qemu_thread_join(&thread);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void test_signals(void)
{
    in_both(signals);
}

/* A thread without an AioContext uses the main loop's, as vCPUs do */

static QemuMutex bql;
static __thread bool has_bql;

bool bql_locked(void)
{
    return has_bql;
}

void rust_bql_mock_lock(void)
{
}

void bql_lock_impl(const char *file, int line)
{
    qemu_mutex_lock(&bql);
    has_bql = true;
}

void bql_unlock(void)
{
    has_bql = false;
    qemu_mutex_unlock(&bql);
}

void bql_block_unlock(bool increase)
{
}

bool mutex_is_bql(QemuMutex *mutex)
{
    return mutex == &bql;
}

void bql_update_status(bool locked)
{
}

typedef struct {
    Request req[50];
    unsigned total;
    unsigned started; /* atomic */
} Foreign;

static void *foreign_thread(void *opaque)
{
    Foreign *f = opaque;

    rcu_register_thread();
    for (int i = 0; i < ARRAY_SIZE(f->req); i++) {
        g_usleep(i % 3 * 200);
        bql_lock();
        g_assert_false(aio_context_is_own(main_ctx));
        request_start(&f->req[i]);
        bql_unlock();

        /* it has to be done without anything else happening */
        while (!qatomic_read(&f->req[i].completed)) {
            g_usleep(10);
        }
    }
    qatomic_set(&f->started, 1);
    bql_lock();
    qemu_notify_event();
    bql_unlock();
    rcu_unregister_thread();
    return NULL;
}

static void test_foreign(void)
{
    Foreign f = {};
    QemuThread thread;

    alarm(LIMIT_S);
    for (int i = 0; i < ARRAY_SIZE(f.req); i++) {
        f.req[i].fd = -1;
        f.req[i].total = &f.total;
    }
    bql_lock();
    qemu_thread_create(&thread, "vcpu", foreign_thread, &f,
                       QEMU_THREAD_JOINABLE);
    while (!qatomic_read(&f.started)) {
        main_loop_wait(false);
    }
    bql_unlock();
    qemu_thread_join(&thread);
    g_assert_cmpuint(f.total, ==, ARRAY_SIZE(f.req));
    alarm(0);
}

/* The thread is to be run by GLib from now on */

typedef struct {
    int pipe[2];
    bool sqpoll;
    QemuEvent in_flight;
} Unclaim;

/* What was done to a handler before, and whether it is there afterwards */
enum {
    ARMED,              /* watched by the ring */
    FIRED,              /* and has been called */
    ADDED,              /* not watched yet */
    CHANGED,            /* watched, and replaced by another one */
    READY,              /* watched, and its event has come */
    LAST_ALIVE = READY,
    ADDED_REMOVED,      /* never watched */
    REMOVED,            /* watched, the ring does not know of it yet */
    CANCELED,           /* the ring knows, and has not confirmed it yet */
    STATES,
};

typedef struct {
    Request req;        /* of the pipe */
    Request follow_up;  /* started by its handler */
    unsigned total;
} InFlight;

static void in_flight_cb(CqeHandler *handler)
{
    InFlight *f = container_of(handler, InFlight, req.handler);

    request_cb(handler);
    request_start(&f->follow_up);
}

static void watch(AioContext *ctx, Watched *w)
{
    aio_set_event_notifier(ctx, &w->e, watched_cb, NULL, NULL);
}

static void unwatch(AioContext *ctx, Watched *w)
{
    aio_set_event_notifier(ctx, &w->e, NULL, NULL, NULL);
}

static void *unclaim_thread(void *opaque)
{
    Unclaim *u = opaque;
    AioContext *ctx = aio_context_new(&error_abort);
    GMainContext *context = g_main_context_new();
    GSource *source = aio_get_g_source(ctx);
    Watched w[STATES] = {};
    unsigned expected[STATES] = {};
    InFlight f[20] = {};
    unsigned total = 0, fired = 0;
    bool is_deferred = false;
    QEMUTimer *timer;
    struct rlimit limit, none;
    int old_ring;

    rcu_register_thread();
    if (u->sqpoll) {
        aio_context_set_sqpoll(ctx, SQPOLL_IDLE_MS, -1, &error_abort);
    }
    qemu_set_current_aio_context(ctx);
    g_source_attach(source, context);
    g_source_unref(source);
    aio_context_claim(ctx);
#ifdef IORING_SETUP_DEFER_TASKRUN
    /* otherwise the kernel has no such rings, and any is as good for GLib */
    is_deferred = ctx->fdmon_io_uring.flags & IORING_SETUP_DEFER_TASKRUN;
#endif
    for (int i = 0; i < STATES; i++) {
        g_assert_cmpint(event_notifier_init(&w[i].e, false), ==, 0);
        if (i != ADDED && i != ADDED_REMOVED) {
            watch(ctx, &w[i]);
        }
    }
    for (int i = 0; i < ARRAY_SIZE(f); i++) {
        f[i].req.fd = u->pipe[0];
        f[i].req.handler.cb = in_flight_cb;
        f[i].follow_up.fd = -1;
        f[i].req.total = f[i].follow_up.total = &total;
        request_start(&f[i].req);
    }
    aio_poll(ctx, false);
    aio_poll(ctx, false);

    event_notifier_set(&w[FIRED].e);
    expected[FIRED]++;
    while (!w[FIRED].seen) {
        aio_poll(ctx, true);
    }
    unwatch(ctx, &w[CANCELED]);
    aio_poll(ctx, false);

    watch(ctx, &w[ADDED]);
    watch(ctx, &w[CHANGED]);
    event_notifier_set(&w[READY].e);
    expected[READY]++;
    watch(ctx, &w[ADDED_REMOVED]);
    unwatch(ctx, &w[ADDED_REMOVED]);
    unwatch(ctx, &w[REMOVED]);

    qemu_event_set(&u->in_flight);      /* from now on they may complete */
    old_ring = ctx->fdmon_io_uring.ring_fd;
    /* it has to succeed, so it must not need anything that it may not get */
    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    none = (struct rlimit) { .rlim_max = limit.rlim_max };
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &none), ==, 0);
    aio_context_unclaim(ctx);
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    if (is_deferred) {
        /* what was in flight had to be completed, for there is a new ring */
        g_assert_cmpuint(total, >=, ARRAY_SIZE(f));
        g_assert_cmpint(ctx->fdmon_io_uring.ring_fd, !=, old_ring);
    }
#ifdef IORING_SETUP_DEFER_TASKRUN
    g_assert_false(ctx->fdmon_io_uring.flags & IORING_SETUP_DEFER_TASKRUN);
#endif

    /* GLib alone */
    timer = aio_timer_new(ctx, QEMU_CLOCK_REALTIME, SCALE_NS, timer_cb,
                          &fired);
    timer_mod(timer, qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + 1000000);
    while (total < 2 * ARRAY_SIZE(f) || !fired) {
        g_main_context_iteration(context, true);
    }
    for (int i = 0; i < ARRAY_SIZE(f); i++) {
        g_assert_cmpuint(f[i].req.completed, ==, 1);
        g_assert_cmpint(f[i].req.result, ==, 1);
        g_assert_cmpuint(f[i].follow_up.completed, ==, 1);
    }
    for (unsigned round = 0; round < 3; round++) {
        for (int i = 0; i <= LAST_ALIVE; i++) {
            while (qatomic_read(&w[i].seen) < expected[i]) {
                g_main_context_iteration(context, true);
            }
        }
        for (int i = 0; i < STATES; i++) {
            event_notifier_set(&w[i].e);
            expected[i] += i <= LAST_ALIVE;
        }
    }
    for (int i = 0; i <= LAST_ALIVE; i++) {
        while (qatomic_read(&w[i].seen) < expected[i]) {
            g_main_context_iteration(context, true);
        }
    }
    while (g_main_context_iteration(context, false)) {
        /* until there is nothing left to do */
    }
    for (int i = 0; i < STATES; i++) {
        g_assert_cmpuint(w[i].seen, ==, expected[i]);
    }

    /* a request alone, through GLib, then without it again */
    for (int i = 0; i < 2; i++) {
        Request req = { .fd = -1 };

        request_start(&req);
        while (!req.completed) {
            if (i == 0) {
                g_main_context_iteration(context, true);
            } else {
                aio_poll(ctx, true);
            }
        }
    }

    timer_free(timer);
    for (int i = 0; i < STATES; i++) {
        unwatch(ctx, &w[i]);
    }
    aio_context_unref(ctx);
    g_main_context_unref(context);
    for (int i = 0; i < STATES; i++) {
        event_notifier_cleanup(&w[i].e);
    }
    rcu_unregister_thread();
    return NULL;
}

static void test_unclaim(void)
{
    for (int round = 0; round < 20; round++) {
        Unclaim u = { .sqpoll = have_sqpoll && round % 4 > 1 };
        QemuThread thread;

        alarm(LIMIT_S);
        g_assert_true(g_unix_open_pipe(u.pipe, FD_CLOEXEC, NULL));
        qemu_event_init(&u.in_flight, false);
        qemu_thread_create(&thread, "unclaim", unclaim_thread, &u,
                           QEMU_THREAD_JOINABLE);
        qemu_event_wait(&u.in_flight);
        for (int i = 0; i < 20; i++) {
            if (round % 2) {
                g_usleep(100);
            }
            g_assert_cmpint(write(u.pipe[1], "x", 1), ==, 1);
        }
        qemu_thread_join(&thread);
        close(u.pipe[0]);
        close(u.pipe[1]);
        qemu_event_destroy(&u.in_flight);
        alarm(0);
    }
}

/* The end, with handlers that are not yet gone */

static void *destroy_thread(void *opaque)
{
    unsigned round = GPOINTER_TO_UINT(opaque);
    AioContext *ctx = aio_context_new(&error_abort);
    Watched w[6] = {};

    rcu_register_thread();
    if (have_sqpoll && round % 3 == 2) {
        aio_context_set_sqpoll(ctx, SQPOLL_IDLE_MS, -1, &error_abort);
    }
    qemu_set_current_aio_context(ctx);
    if (round % 3) {
        aio_context_claim(ctx);
    }
    for (int i = 0; i < ARRAY_SIZE(w); i++) {
        g_assert_cmpint(event_notifier_init(&w[i].e, false), ==, 0);
        watch(ctx, &w[i]);
    }
    aio_poll(ctx, false);
    aio_poll(ctx, false);
    unwatch(ctx, &w[0]);        /* the ring knows of it */
    aio_poll(ctx, false);
    unwatch(ctx, &w[1]);        /* it does not */
    watch(ctx, &w[2]);          /* nor of this */
    event_notifier_set(&w[3].e);
    unwatch(ctx, &w[3]);        /* its event has come meanwhile */
    unwatch(ctx, &w[4]);
    watch(ctx, &w[4]);
    unwatch(ctx, &w[4]);
    unwatch(ctx, &w[2]);
    unwatch(ctx, &w[5]);
    aio_context_unref(ctx);
    for (int i = 0; i < ARRAY_SIZE(w); i++) {
        g_assert_cmpuint(w[i].seen, ==, 0);
        event_notifier_cleanup(&w[i].e);
    }
    rcu_unregister_thread();
    return NULL;
}

static void test_destroy(void)
{
    alarm(LIMIT_S);
    for (int i = 0; i < 60; i++) {
        QemuThread thread;

        qemu_thread_create(&thread, "destroy", destroy_thread,
                           GUINT_TO_POINTER(i), QEMU_THREAD_JOINABLE);
        qemu_thread_join(&thread);
    }
    alarm(0);
}

static void probe_sqpoll(void)
{
    AioContext *ctx = aio_context_new(&error_abort);

    have_sqpoll = aio_context_set_sqpoll(ctx, SQPOLL_IDLE_MS, -1, NULL);
    aio_context_unref(ctx);
}

int main(int argc, char **argv)
{
    sigset_t set;

    qemu_mutex_init(&bql);
    g_test_init(&argc, &argv, NULL);
    qemu_init_main_loop(&error_abort);
    sigemptyset(&set);
    sigaddset(&set, SIGALRM); /* blocked by the main loop */
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    main_ctx = qemu_get_aio_context();
    if (!main_ctx->fdmon_ops->add_sqe) {
        g_print("1..0 # SKIP io_uring is not available\n");
        return 0;
    }
    probe_sqpoll();

    g_test_add_func("/fdmon-io_uring/many", test_many);
    g_test_add_func("/fdmon-io_uring/deep", test_deep);
    g_test_add_func("/fdmon-io_uring/nested", test_nested);
    g_test_add_func("/fdmon-io_uring/timers", test_timers);
    g_test_add_func("/fdmon-io_uring/notify", test_notify);
    g_test_add_func("/fdmon-io_uring/handlers", test_handlers);
#ifdef IORING_SQ_TASKRUN
    g_test_add_func("/fdmon-io_uring/stale-flag", test_stale_flag);
#endif
    g_test_add_func("/fdmon-io_uring/signals", test_signals);
    g_test_add_func("/fdmon-io_uring/foreign-thread", test_foreign);
    g_test_add_func("/fdmon-io_uring/unclaim", test_unclaim);
    g_test_add_data_func("/fdmon-io_uring/sqpoll/many", many, test_sqpoll);
    g_test_add_data_func("/fdmon-io_uring/sqpoll/deep", deep, test_sqpoll);
    g_test_add_data_func("/fdmon-io_uring/sqpoll/nested", nested, test_sqpoll);
    g_test_add_data_func("/fdmon-io_uring/sqpoll/timers", timers, test_sqpoll);
    g_test_add_data_func("/fdmon-io_uring/sqpoll/notify", notify, test_sqpoll);
    g_test_add_data_func("/fdmon-io_uring/sqpoll/signals", signals,
                         test_sqpoll);
    g_test_add_func("/fdmon-io_uring/sqpoll/handlers", test_sqpoll_handlers);
    g_test_add_func("/fdmon-io_uring/destroy", test_destroy);
    return g_test_run();
}
