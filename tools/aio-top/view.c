/*
 * The live view
 *
 * One thread does all: it sleeps until a key, a signal or the next look at
 * QEMU. Signals are blocked but while it sleeps, so that none is missed and
 * none interrupts what must be whole.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <curses.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "columns.h"
#include "table.h"
#include "text.h"
#include "view.h"

/* A QEMU that hangs delays the keys by this much, now and then. */
#define TIMEOUT_MS 500
#define RETRY_US 1000000
#define CONTROL_L 12
#define KEYS_LINE "q quit  s/S sort  r reverse  +/- interval  R reset  h help"

typedef struct View {
    Session *session;
    const Options *options;
    SCREEN *screen;
    double interval;
    char **keys;                    /* all that can be sorted by */
    unsigned sort;                  /* index of it */
    bool reverse;

    AioStatsSnapshot *last;         /* NULL: the next one is the first */
    Model *model;                   /* NULL: none yet */
    char *trouble;                  /* NULL: all is well */
    char *note;                     /* until the next key */
    char *version, *name;           /* stay when QEMU is gone */
    int64_t attached_us, next_us;
    int refreshes;

    bool help, confirm_reset, quit;
    unsigned top;                   /* first line of the body that is shown */
    unsigned body_height, body_lines;
} View;

static volatile sig_atomic_t end_signal;

static void on_end_signal(int sig)
{
    end_signal = sig;
}

/* -------------------------------------------------------------- drawing */

/* @text on line @y, cut at the edge; what is right of it is cleared. */
static void put_line(int y, const char *text, attr_t attributes)
{
    glong length = g_utf8_strlen(text, -1);
    const char *end = length > COLS ? g_utf8_offset_to_pointer(text, COLS) :
                      text + strlen(text);

    if (y < 0 || y >= LINES) {
        return;
    }
    move(y, 0);
    clrtoeol();
    attrset(attributes);
    mvaddnstr(y, 0, text, end - text);
    attrset(A_NORMAL);
}

static char *duration(int64_t us)
{
    int64_t s = us / 1000000;

    return g_strdup_printf("%" G_GINT64_FORMAT ":%02d:%02d", s / 3600,
                           (int)(s / 60 % 60), (int)(s % 60));
}

static char *title(const View *v)
{
    g_autofree char *up = duration(g_get_monotonic_time() - v->attached_us);

    return g_strdup_printf("aio-top: QEMU %s%s%s  attached %s  interval %g s"
                           "  sort %s%s", v->version, *v->name ? " " : "",
                           v->name, up, v->interval, v->keys[v->sort],
                           v->reverse ? " (reverse)" : "");
}

static GPtrArray *body(const View *v)
{
    if (v->help) {
        return table_help();
    }
    if (!v->model) {
        return NULL;
    }
    model_sort(v->model, v->keys[v->sort], v->reverse);
    return table_lines(v->model, v->keys[v->sort], MAX(COLS, 1));
}

static void put_body_line(int y, const Line *line)
{
    static const attr_t attributes[] = {
        [LINE_HEADING] = A_REVERSE,
        [LINE_ROW] = A_NORMAL,
        [LINE_BUSY] = A_BOLD,
        [LINE_EMPTY] = A_NORMAL,
    };

    put_line(y, line->text, attributes[line->kind]);
    if (line->mark_length && (int)line->mark_at < COLS) {
        mvchgat(y, line->mark_at, line->mark_length, A_REVERSE | A_BOLD |
                A_UNDERLINE, 0, NULL);
    }
}

static void draw(View *v)
{
    g_autoptr(GPtrArray) lines = body(v);
    g_autofree char *head = title(v);
    const char *status = v->confirm_reset ?
        "Reset the statistics of this QEMU to zero? y: yes" :
        v->trouble ? v->trouble : v->note ? v->note : v->help ?
        "any key: back" : lines ? "" : "waiting for the first interval";
    bool keys_line = LINES >= 8;
    int y = 0;

    put_line(y++, head, A_BOLD);
    /* A line that is empty most of the time is too dear in a low window. */
    if (*status || keys_line) {
        put_line(y++, status, v->trouble || v->confirm_reset ? A_STANDOUT :
                 A_NORMAL);
    }
    v->body_height = MAX(LINES - y - keys_line, 0);
    v->body_lines = lines ? lines->len : 0;
    if (v->top + v->body_height > v->body_lines) {
        v->top = v->body_lines > v->body_height ?
                 v->body_lines - v->body_height : 0;
    }
    for (unsigned i = 0; i < v->body_height; i++) {
        if (v->top + i < v->body_lines) {
            put_body_line(y + i, g_ptr_array_index(lines, v->top + i));
        } else {
            put_line(y + i, "", A_NORMAL);
        }
    }
    if (keys_line) {
        put_line(LINES - 1, KEYS_LINE, A_DIM);
    }
    refresh();
}

/* ---------------------------------------------------------------- looking */

static void G_GNUC_PRINTF(2, 3) set_trouble(View *v, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_free(v->trouble);
    v->trouble = printable(text);
}

static void attached(View *v)
{
    g_free(v->version);
    g_free(v->name);
    v->version = printable(v->session->version);
    v->name = printable(v->session->name);
    v->attached_us = g_get_monotonic_time();
    g_clear_pointer(&v->last, aio_stats_snapshot_free);
    g_clear_pointer(&v->trouble, g_free);
}

/* False if there is no connection yet. */
static bool reconnect(View *v)
{
    g_autoptr(GError) err = NULL;

    if (session_connect(v->session, TIMEOUT_MS, &err)) {
        attached(v);
        return true;
    }
    set_trouble(v, "%s, trying again: %s",
                g_error_matches(err, QMP_CLIENT_ERROR,
                                QMP_CLIENT_ERROR_CONNECT) ?
                "QEMU is gone" : "not attached", err->message);
    return false;
}

static void look(View *v)
{
    g_autoptr(GError) err = NULL;
    AioStatsSnapshot *now;

    if (!v->session->qmp && !reconnect(v)) {
        return;
    }
    now = session_fetch(v->session, TIMEOUT_MS, &err);
    if (!now) {
        if (v->session->qmp) {
            set_trouble(v, "waiting for QEMU: %s", err->message);
        } else {
            set_trouble(v, "%s, these are its last figures: %s",
                        g_error_matches(err, QMP_CLIENT_ERROR,
                                        QMP_CLIENT_ERROR_CLOSED) ?
                        "QEMU is gone" : "QEMU gave none", err->message);
        }
        return;
    }
    g_clear_pointer(&v->trouble, g_free);
    if (v->last) {
        g_autoptr(AioStatsSnapshot) diff = aio_stats_diff(v->last, now);

        model_free(v->model);
        v->model = model_new(diff);
        aio_stats_snapshot_free(v->last);
        v->refreshes++;
    }
    v->last = now;
}

static void look_when_due(View *v)
{
    int64_t now = g_get_monotonic_time();

    if (now < v->next_us) {
        return;
    }
    look(v);
    if (!v->session->qmp) {
        v->next_us = g_get_monotonic_time() + RETRY_US;
        return;
    }
    /* in step, unless QEMU or this machine cannot keep up */
    v->next_us += v->interval * 1e6;
    now = g_get_monotonic_time();
    if (v->next_us <= now) {
        v->next_us = now + v->interval * 1e6;
    }
}

/* ------------------------------------------------------------------- keys */

static void reset_statistics(View *v)
{
    g_autoptr(GError) err = NULL;

    g_free(v->note);
    if (!v->session->qmp) {
        v->note = g_strdup("not reset: QEMU is gone");
    } else if (aio_stats_reset(v->session->qmp, TIMEOUT_MS, &err)) {
        v->note = g_strdup("statistics reset");
        g_clear_pointer(&v->last, aio_stats_snapshot_free);
        v->next_us = g_get_monotonic_time();
    } else {
        v->note = g_strdup_printf("not reset: %s", err->message);
    }
}

/* 0.1 0.2 0.5 1 2 5 ... seconds */
static void change_interval(View *v, int step)
{
    static const double steps[] = {
        0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600
    };
    int i = 0, n = G_N_ELEMENTS(steps);

    if (step > 0) {
        while (i < n - 1 && steps[i] <= v->interval) {
            i++;
        }
    } else {
        i = n - 1;
        while (i > 0 && steps[i] >= v->interval) {
            i--;
        }
    }
    v->interval = steps[i];
    v->next_us = MIN(v->next_us,
                     g_get_monotonic_time() + (int64_t)(v->interval * 1e6));
}

static void scroll_by(View *v, int lines)
{
    /* draw() knows the end */
    v->top = MAX((int)v->top + lines, 0);
}

static void handle_key(View *v, int key)
{
    unsigned n = g_strv_length(v->keys);

    if (key == KEY_RESIZE) {
        clear();
        return;
    }
    if (key == CONTROL_L) {
        clearok(stdscr, true);
        return;
    }
    g_clear_pointer(&v->note, g_free);
    if (v->confirm_reset) {
        v->confirm_reset = false;
        if (key == 'y' || key == 'Y') {
            reset_statistics(v);
        }
        return;
    }
    switch (key) {
    case KEY_UP:
        scroll_by(v, -1);
        return;
    case KEY_DOWN:
        scroll_by(v, 1);
        return;
    case KEY_PPAGE:
        scroll_by(v, -(int)v->body_height);
        return;
    case KEY_NPAGE:
        scroll_by(v, v->body_height);
        return;
    case KEY_HOME:
        v->top = 0;
        return;
    case KEY_END:
        v->top = v->body_lines;
        return;
    case 'q':
    case 'Q':
        v->quit = true;
        return;
    default:
        break;
    }
    if (v->help) {
        v->help = false;
        v->top = 0;
        return;
    }
    switch (key) {
    case 's':
        v->sort = (v->sort + 1) % n;
        break;
    case 'S':
        v->sort = (v->sort + n - 1) % n;
        break;
    case 'r':
        v->reverse = !v->reverse;
        break;
    case '+':
    case '-':
        change_interval(v, key == '+' ? 1 : -1);
        break;
    case 'R':
        v->confirm_reset = true;
        break;
    case 'h':
    case '?':
        v->help = true;
        v->top = 0;
        break;
    default:
        break;
    }
}

/* Sleep until there is something to do; false if the terminal is gone. */
static bool wait_for_input(View *v, const sigset_t *open_mask)
{
    struct pollfd pfd = { .fd = STDIN_FILENO, .events = POLLIN };
    /* once a second at least, for the time in the title */
    int64_t us = CLAMP(v->next_us - g_get_monotonic_time(), 0, 1000000);
    struct timespec ts = {
        .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000
    };
    int n = ppoll(&pfd, 1, &ts, open_mask), key;

    if (n < 0 && errno != EINTR) {
        return false;
    }
    if (n > 0 && pfd.revents & (POLLHUP | POLLERR | POLLNVAL)) {
        return false;
    }
    /* of a signal, too: that of the window's size becomes a key */
    while (!v->quit && (key = getch()) != ERR) {
        handle_key(v, key);
    }
    return true;
}

static bool start_screen(View *v, GError **errp)
{
    const char *type = g_getenv("TERM");

    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
        g_set_error(errp, AIO_TOP_ERROR, AIO_TOP_USAGE,
                    "the live view needs a terminal: use --once to print"
                    " figures");
        return false;
    }
    v->screen = newterm(NULL, stdout, stdin);
    if (!v->screen) {
        g_set_error(errp, AIO_TOP_ERROR,
                    AIO_TOP_FAILED, "the terminal '%s' is not known: set TERM"
                    " to one that is, or use --once", type ? type : "");
        return false;
    }
    cbreak();
    noecho();
    nonl();
    keypad(stdscr, true);
    nodelay(stdscr, true);
    /* an escape key of its own is not used */
    set_escdelay(25);
    curs_set(0);
    return true;
}

static bool run(View *v, const sigset_t *open_mask)
{
    while (!v->quit && !end_signal) {
        look_when_due(v);
        draw(v);
        if (v->options->count && v->refreshes >= v->options->count) {
            break;
        }
        if (!wait_for_input(v, open_mask)) {
            return false;
        }
    }
    return true;
}

bool view_run(Session *s, const Options *o, GError **errp)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
    struct sigaction sa = { .sa_handler = on_end_signal };
    sigset_t blocked, open_mask;
    View v = { .session = s, .options = o, .interval = o->interval };
    bool ok;

    sigemptyset(&blocked);
    sigaddset(&blocked, SIGWINCH);
    for (unsigned i = 0; i < G_N_ELEMENTS(signals); i++) {
        sigaddset(&blocked, signals[i]);
        sigaction(signals[i], &sa, NULL);
    }
    sigprocmask(SIG_BLOCK, &blocked, &open_mask);
    if (!start_screen(&v, errp)) {
        return false;
    }
    v.keys = column_keys();
    while (strcmp(v.keys[v.sort], o->sort)) {
        v.sort++;
    }
    v.next_us = g_get_monotonic_time();
    attached(&v);
    ok = run(&v, &open_mask);
    endwin();
    delscreen(v.screen);
    g_strfreev(v.keys);
    g_free(v.version);
    g_free(v.name);
    g_free(v.trouble);
    g_free(v.note);
    model_free(v.model);
    aio_stats_snapshot_free(v.last);
    if (end_signal) {
        signal(end_signal, SIG_DFL);
        raise(end_signal);
    }
    sigprocmask(SIG_SETMASK, &open_mask, NULL);
    if (!ok) {
        g_set_error(errp, AIO_TOP_ERROR,
                    AIO_TOP_FAILED, "the terminal is gone");
    }
    return ok;
}
