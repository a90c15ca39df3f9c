/*
 * Counts, per request, the locks that IOThreads take and the cache lines that
 * they share.
 *
 * Time says that something is slow; on a shared host it says that badly, and
 * it never says why.  What several IOThreads pay for is mostly one thing: lines
 * that one of them writes and another one uses.  Those can be counted exactly,
 * on any host, with any QEMU binary that has symbols: this program starts a
 * load, attaches to the IOThreads of the QEMU that it finds below it, executes
 * them instruction by instruction, in turn, and looks at each one before it is
 * executed: is it a locked one, which memory does it read and write, does it
 * enter pthread_mutex_lock() or malloc().  Afterwards the memory that two
 * threads used is known, and so is what is written to it.
 *
 * Stepping is some ten thousand times slower than running.  A load that runs on
 * meanwhile would find each request completed alone and make each a batch of
 * its own.  So the load is stopped (SIGSTOP) while an IOThread has work, and
 * continued when all of them wait: batches are as long as the load makes them.
 * Counted are whole such rounds, and as many requests as the function --request
 * was entered.  The IOThreads' polling, which is by the clock, is left out.
 *
 * Not seen: what the kernel writes, other threads than the IOThreads (they run
 * on meanwhile), and the operands of gathers and of XSAVE and the like.
 *
 * Build (needs libcapstone-dev, x86-64 Linux):
 *   gcc -std=gnu11 -O2 -g -Wall -Wextra -Werror shared-lines.c -pthread \
 *       -o shared-lines $(pkg-config --cflags --libs glib-2.0 capstone)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <capstone/capstone.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_THREADS     8
#define LINE            64
#define DEPTH           4       /* functions of a call chain that are told */
#define MAX_MEM         4       /* memory operands of one instruction */
#define MAX_SYSCALL     512

typedef struct Vma {
    uint64_t lo, hi, off;
    bool shared, exec, stack;
    char path[256];
    struct Elf *elf;
    uint64_t bias;
} Vma;

typedef struct Sym {
    uint64_t addr, size;
    const char *name;
    bool func;
} Sym;

typedef struct Elf {
    char *path;
    char *data;
    size_t len;
    GArray *syms;               /* of Sym, by address */
} Elf;

typedef struct Mem {
    int16_t base, index;        /* offsets in user_regs_struct, or -1 */
    int16_t seg;                /* that of fs_base or gs_base, or -1 */
    uint8_t scale, size;
    bool rd, wr;
    int64_t disp;
} Mem;

typedef struct Insn {
    uint64_t pc;
    const char *func;           /* interned: compare the pointers */
    uint8_t len, nmem;
    bool locked, call, rep, sys, request, mutex, alloc, bad;
    Mem mem[MAX_MEM];
    uint64_t count;             /* executions that are counted */
} Insn;

/* A return address that lies on a stack. */
typedef struct Frame {
    uint64_t slot;
    const char *func;
} Frame;

typedef struct Chain {
    const char *func[DEPTH];
    uint64_t locked, mutex, alloc, shared_wr;   /* what is counted */
} Chain;

enum {
    RD = 1, WR = 2, LOCKED = 4, MUTEX = 8, INSN = 16, SYSCALL = 32,
    REQUEST = 64, ALLOC = 128,
};

/* What a thread did, in the order in which the threads did it. */
typedef struct Event {
    uint64_t line;              /* or the number of the system call */
    Insn *insn;
    Chain *chain;
    uint32_t req;               /* entries into --request so far */
    uint16_t round;
    uint8_t thread, flags;
} Event;

typedef struct Thread {
    pid_t tid;
    char comm[32];
    bool running;               /* in a system call that has not returned */
    uint64_t steps, last_pc;
    int sig;
    uint32_t req;
    Vma *stack_vma;
    GArray *frames;             /* of stack_vma */
    GHashTable *stacks;         /* Vma.lo to GArray of Frame */
    uint64_t fs_base;
} Thread;

typedef struct Line {
    uint64_t line;
    uint32_t rd[MAX_THREADS], wr[MAX_THREADS];  /* instructions */
    uint8_t readers, writers, cached;           /* sets of threads */
    uint64_t transfers, atomics;
    bool guest, shared;
    GHashTable *sites;          /* Insn to uses, of shared lines */
} Line;

/* What is told at the end; per request it is divided by requests. */
typedef struct Result {
    unsigned threads;
    uint64_t requests, insns, locked, mutexes, allocs, syscalls, writes;
    uint64_t shared_wr, shared_wr_locked, lines_wr, lines, transfers;
    uint64_t guest_wr, guest_lines, guest_transfers;
    uint64_t bad;
    unsigned rounds;
} Result;

typedef struct Tool {
    pid_t pid;
    int mem;                    /* /proc/PID/mem */
    csh cs;
    GPtrArray *vmas;
    GHashTable *elfs, *insns, *chains, *lines;
    GArray *events;
    Thread thread[MAX_THREADS];
    unsigned nthreads;
    uint64_t bad;               /* memory operands that are not understood */
    unsigned rounds;            /* times that the load ran */
} Tool;

static char *opt_comm = (char *)"IO iothread";
static char *opt_request = (char *)"virtio_blk_handle_request";
static int opt_threads = 1;
static int opt_rounds = 6;
static int opt_quantum = 50;
static int opt_settle = 3;
static int opt_top = 25;
static int opt_grace = 30;
static gboolean opt_lines, opt_self_test;

static const GOptionEntry entries[] = {
    { "threads", 0, 0, G_OPTION_ARG_INT, &opt_threads,
      "IOThreads to wait for (1)", "N" },
    { "comm", 0, 0, G_OPTION_ARG_STRING, &opt_comm,
      "how their names begin (IO iothread)", "TEXT" },
    { "request", 0, 0, G_OPTION_ARG_STRING, &opt_request,
      "runs once for each request (virtio_blk_handle_request)", "FUNCTION" },
    { "rounds", 0, 0, G_OPTION_ARG_INT, &opt_rounds,
      "how often all threads get work and complete it (6)", "N" },
    { "quantum", 0, 0, G_OPTION_ARG_INT, &opt_quantum,
      "instructions until it is another thread's turn (50)", "N" },
    { "settle", 0, 0, G_OPTION_ARG_INT, &opt_settle,
      "seconds that the load runs before (3)", "S" },
    { "grace", 0, 0, G_OPTION_ARG_INT, &opt_grace,
      "milliseconds that the load runs when all threads wait (30)", "MS" },
    { "top", 0, 0, G_OPTION_ARG_INT, &opt_top,
      "length of the lists (25)", "N" },
    { "lines", 0, 0, G_OPTION_ARG_NONE, &opt_lines,
      "find source lines (addr2line; takes some seconds)", NULL },
    { "self-test", 0, 0, G_OPTION_ARG_NONE, &opt_self_test,
      "count a known program, compare, print TAP", NULL },
    G_OPTION_ENTRY_NULL
};

static void G_GNUC_PRINTF(1, 2) G_GNUC_NORETURN die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fputs("shared-lines: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

/* Symbols */

static gint sym_cmp(gconstpointer a, gconstpointer b)
{
    const Sym *x = a, *y = b;

    if (x->addr != y->addr) {
        return x->addr < y->addr ? -1 : 1;
    }
    return x->size < y->size ? -1 : x->size > y->size;
}

static void elf_symbols(Elf *e, const Elf64_Ehdr *eh, unsigned type)
{
    const Elf64_Shdr *sh = (const void *)(e->data + eh->e_shoff);

    for (unsigned i = 0; i < eh->e_shnum; i++) {
        const Elf64_Sym *s = (const void *)(e->data + sh[i].sh_offset);

        if (sh[i].sh_type != type) {
            continue;
        }
        for (size_t n = sh[i].sh_size / sizeof(*s); n--; s++) {
            unsigned t = ELF64_ST_TYPE(s->st_info);

            if (s->st_shndx != SHN_UNDEF &&
                (t == STT_FUNC || t == STT_OBJECT || t == STT_GNU_IFUNC)) {
                const char *name = e->data + sh[sh[i].sh_link].sh_offset +
                                   s->st_name;
                Sym sym = { s->st_value, s->st_size,
                            g_intern_string(name), t != STT_OBJECT };

                g_array_append_val(e->syms, sym);
            }
        }
    }
}

static Elf *elf_load(Tool *t, const char *path)
{
    g_autofree char *exe = g_strdup_printf("/proc/%d/exe", t->pid);
    g_autofree char *target = g_file_read_link(exe, NULL);
    Elf *e = g_hash_table_lookup(t->elfs, path);
    const Elf64_Ehdr *eh;

    if (e) {
        return e;
    }
    e = g_new0(Elf, 1);
    /* The program's own file may have been unlinked since. */
    e->path = g_strdup(!g_strcmp0(target, path) ? exe : path);
    e->syms = g_array_new(false, false, sizeof(Sym));
    g_hash_table_insert(t->elfs, g_strdup(path), e);

    if (!g_file_get_contents(e->path, &e->data, &e->len, NULL) ||
        e->len < sizeof(*eh) || memcmp(e->data, ELFMAG, SELFMAG)) {
        e->len = 0;
        return e;
    }
    eh = (const void *)e->data;
    elf_symbols(e, eh, SHT_SYMTAB);
    if (!e->syms->len) {
        elf_symbols(e, eh, SHT_DYNSYM);
    }
    g_array_sort(e->syms, sym_cmp);
    return e;
}

/* The last symbol that begins at @addr or before it and holds it. */
static const Sym *elf_find(const Elf *e, uint64_t addr, bool func)
{
    size_t lo = 0, hi = e->syms->len;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (g_array_index(e->syms, Sym, mid).addr <= addr) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    for (unsigned back = 0; lo-- && back < 16; back++) {
        const Sym *s = &g_array_index(e->syms, Sym, lo);

        if (s->func == func && addr < s->addr + MAX(s->size, 1)) {
            return s;
        }
    }
    return NULL;
}

static void read_maps(Tool *t)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", t->pid);
    g_autofree char *text = NULL;
    g_auto(GStrv) line = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        die("%s cannot be read", path);
    }
    /* Old ones stay valid: frames and instructions point to them. */
    g_ptr_array_set_size(t->vmas, 0);
    line = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; line[i] && *line[i]; i++) {
        Vma *v = g_new0(Vma, 1);
        char perm[8];

        if (sscanf(line[i], "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64
                   " %*s %*s %255[^\n]", &v->lo, &v->hi, perm, &v->off,
                   v->path) < 4) {
            die("%s: %s", path, line[i]);
        }
        v->exec = perm[2] == 'x';
        v->shared = perm[3] == 's';
        if (v->path[0] == '/' && !v->shared) {
            v->elf = elf_load(t, v->path);
            if (v->elf->len) {
                const Elf64_Ehdr *eh = (const void *)v->elf->data;
                const Elf64_Phdr *ph = (const void *)(v->elf->data +
                                                      eh->e_phoff);

                for (unsigned k = 0; k < eh->e_phnum; k++) {
                    uint64_t off = ph[k].p_offset & ~4095ull;

                    /* Data begins on a page that text may have mapped too. */
                    if (ph[k].p_type == PT_LOAD && v->off >= off &&
                        v->off < ph[k].p_offset + ph[k].p_filesz &&
                        v->exec == !!(ph[k].p_flags & PF_X)) {
                        v->bias = v->lo - v->off + ph[k].p_offset -
                                  ph[k].p_vaddr;
                    }
                }
            }
        } else if (!v->path[0] && t->vmas->len) {
            Vma *prev = g_ptr_array_index(t->vmas, t->vmas->len - 1);

            /* .bss */
            if (prev->hi == v->lo && prev->elf) {
                v->elf = prev->elf;
                v->bias = prev->bias;
            }
        }
        g_ptr_array_add(t->vmas, v);
    }
}

static Vma *vma_find(Tool *t, uint64_t addr)
{
    size_t lo = 0, hi = t->vmas->len;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        Vma *v = g_ptr_array_index(t->vmas, mid);

        if (addr < v->lo) {
            hi = mid;
        } else if (addr >= v->hi) {
            lo = mid + 1;
        } else {
            return v;
        }
    }
    return NULL;
}

static Vma *vma_get(Tool *t, uint64_t addr)
{
    Vma *v = vma_find(t, addr);

    if (!v) {
        read_maps(t);
        v = vma_find(t, addr);
    }
    return v;
}

/* Instructions */

static int reg_offset(unsigned reg)
{
#define REG(x, y) \
    case X86_REG_##x: return offsetof(struct user_regs_struct, y)
    switch (reg) {
    REG(RAX, rax); REG(RBX, rbx); REG(RCX, rcx); REG(RDX, rdx);
    REG(RSI, rsi); REG(RDI, rdi); REG(RBP, rbp); REG(RSP, rsp);
    REG(R8, r8); REG(R9, r9); REG(R10, r10); REG(R11, r11);
    REG(R12, r12); REG(R13, r13); REG(R14, r14); REG(R15, r15);
    REG(RIP, rip); REG(FS, fs_base); REG(GS, gs_base);
    default: return -1;
    }
#undef REG
}

/* Whether @mnemonic begins with one of @list. */
static bool starts_with(const char *mnemonic, const char *const *list)
{
    while (*list && !g_str_has_prefix(mnemonic, *list)) {
        list++;
    }
    return *list;
}

static const char *const plain_moves[] = { "mov", "vmov", NULL };
static const char *const stores[] = {
    "set", "fnst", "fst", "fist", "pextr", "vpextr", "vextract", "stmxcsr",
    NULL
};
static const char *const changes[] = {
    "rol", "ror", "rcl", "rcr", "sar", "sal", "shl", "shr", NULL
};

static void insn_mem(Tool *t, Insn *in, const cs_insn *ci, const cs_x86_op *op,
                     bool first)
{
    Mem *m = &in->mem[in->nmem];
    bool string = ci->id == X86_INS_MOVSB || ci->id == X86_INS_MOVSW ||
                  ci->id == X86_INS_MOVSQ || ci->id == X86_INS_STOSB ||
                  ci->id == X86_INS_STOSW || ci->id == X86_INS_STOSD ||
                  ci->id == X86_INS_STOSQ;

    if (in->nmem == MAX_MEM) {
        in->bad = true;
        return;
    }
    m->base = reg_offset(op->mem.base);
    m->index = reg_offset(op->mem.index);
    m->seg = op->mem.segment == X86_REG_FS || op->mem.segment == X86_REG_GS ?
             reg_offset(op->mem.segment) : -1;
    if ((op->mem.base != X86_REG_INVALID && m->base < 0) ||
        (op->mem.index != X86_REG_INVALID && m->index < 0)) {
        in->bad = true;         /* an address of 32 bits, or a gather */
        t->bad++;
        return;
    }
    m->scale = op->mem.scale;
    m->size = op->size ? op->size : 8;
    m->disp = op->mem.disp + (op->mem.base == X86_REG_RIP ? in->len : 0);
    m->rd = op->access & CS_AC_READ;
    m->wr = op->access & CS_AC_WRITE;
    /* Capstone 4 is wrong about these. */
    if (!string && starts_with(ci->mnemonic, plain_moves)) {
        m->wr = first;
        m->rd = !first;
    } else if (starts_with(ci->mnemonic, stores)) {
        m->wr = first;
    } else if (starts_with(ci->mnemonic, changes)) {
        m->rd = m->wr = first;
    } else if (!strcmp(ci->mnemonic, "test") || !strcmp(ci->mnemonic, "bt") ||
               !strcmp(ci->mnemonic, "cmp")) {
        m->wr = false;
        m->rd = true;
    }
    if (in->locked) {
        m->rd = m->wr = true;
    }
    if (!m->rd && !m->wr) {
        m->rd = true;
    }
    in->nmem++;
}

/* Adds an access of the stack that is no operand. */
static void insn_stack(Insn *in, int64_t disp, bool wr)
{
    if (in->nmem < MAX_MEM) {
        in->mem[in->nmem++] = (Mem) {
            .base = reg_offset(X86_REG_RSP), .index = -1, .seg = -1,
            .size = 8, .rd = !wr, .wr = wr, .disp = disp,
        };
    }
}

static Insn *insn_get(Tool *t, uint64_t pc)
{
    Insn *in = g_hash_table_lookup(t->insns, &pc);
    uint8_t code[16] = { 0 };
    const Sym *s = NULL;
    cs_insn *ci;
    Vma *v;

    if (in) {
        return in;
    }
    in = g_new0(Insn, 1);
    in->pc = pc;
    g_hash_table_insert(t->insns, &in->pc, in);

    v = vma_get(t, pc);
    if (v && v->elf) {
        s = elf_find(v->elf, pc - v->bias, true);
    }
    if (s) {
        bool entry = s->addr + v->bias == pc;

        in->func = s->name;
        in->request = entry && !strcmp(s->name, opt_request);
        in->mutex = entry && strstr(v->path, "libc") &&
                    (strstr(s->name, "pthread_mutex_lock") ||
                     strstr(s->name, "pthread_mutex_trylock"));
        in->alloc = entry && strstr(v->path, "libc") &&
                    (strstr(s->name, "alloc") || strstr(s->name, "memalign"));
    } else {
        g_autofree char *base = g_path_get_basename(v ? v->path : "?");
        g_autofree char *name = g_strdup_printf("(%s)", base);

        in->func = g_intern_string(name);
    }

    if (pread(t->mem, code, sizeof(code), pc) <= 0 ||
        !cs_disasm(t->cs, code, sizeof(code), pc, 1, &ci)) {
        in->bad = true;
        t->bad++;
        return in;
    }
    in->len = ci->size;
    in->rep = ci->detail->x86.prefix[0] == X86_PREFIX_REP ||
              ci->detail->x86.prefix[0] == X86_PREFIX_REPNE;
    in->rep = in->rep && (ci->id == X86_INS_MOVSB || ci->id == X86_INS_MOVSQ ||
                          ci->id == X86_INS_MOVSW || ci->id == X86_INS_STOSB ||
                          ci->id == X86_INS_STOSQ || ci->id == X86_INS_STOSD ||
                          ci->id == X86_INS_MOVSD || ci->id == X86_INS_STOSW ||
                          ci->id == X86_INS_SCASB || ci->id == X86_INS_CMPSB);
    in->call = ci->id == X86_INS_CALL;
    in->sys = ci->id == X86_INS_SYSCALL;

    /* XCHG with memory locks without being asked to. */
    in->locked = ci->detail->x86.prefix[0] == X86_PREFIX_LOCK;
    for (unsigned i = 0; i < ci->detail->x86.op_count; i++) {
        if (ci->id == X86_INS_XCHG &&
            ci->detail->x86.operands[i].type == X86_OP_MEM) {
            in->locked = true;
        }
    }
    if (ci->id != X86_INS_LEA && ci->id != X86_INS_NOP) {
        for (unsigned i = 0; i < ci->detail->x86.op_count; i++) {
            if (ci->detail->x86.operands[i].type == X86_OP_MEM) {
                insn_mem(t, in, ci, &ci->detail->x86.operands[i], i == 0);
            }
        }
    }
    switch (ci->id) {
    case X86_INS_PUSH: case X86_INS_CALL:
        insn_stack(in, -8, true);
        break;
    case X86_INS_POP: case X86_INS_RET:
        insn_stack(in, 0, false);
        break;
    default:
        break;
    }
    cs_free(ci, 1);
    return in;
}

/* Call chains */

static guint chain_hash(gconstpointer p)
{
    const Chain *c = p;
    guint h = 0;

    for (unsigned i = 0; i < DEPTH; i++) {
        h = h * 31 + g_direct_hash(c->func[i]);
    }
    return h;
}

static gboolean chain_equal(gconstpointer a, gconstpointer b)
{
    return !memcmp(((const Chain *)a)->func, ((const Chain *)b)->func,
                   sizeof(((const Chain *)a)->func));
}

/* Coroutines have stacks of their own: frames are kept for each. */
static void find_stack(Tool *t, Thread *th, uint64_t rsp)
{
    Vma *v = th->stack_vma;

    if (!v || rsp < v->lo || rsp >= v->hi) {
        v = vma_get(t, rsp);
        if (!v) {
            die("no memory at the stack pointer");
        }
        th->stack_vma = v;
        th->frames = g_hash_table_lookup(th->stacks, &v->lo);
        if (!th->frames) {
            th->frames = g_array_new(false, false, sizeof(Frame));
            g_hash_table_insert(th->stacks, &v->lo, th->frames);
        }
    }
    while (th->frames->len &&
           g_array_index(th->frames, Frame, th->frames->len - 1).slot < rsp) {
        g_array_set_size(th->frames, th->frames->len - 1);
    }
}

static Chain *chain_get(Tool *t, Thread *th, Insn *in)
{
    Chain key = { .func = { in->func } }, *c;
    unsigned n = 1;

    for (guint i = th->frames->len; i-- && n < DEPTH; ) {
        key.func[n++] = g_array_index(th->frames, Frame, i).func;
    }
    c = g_hash_table_lookup(t->chains, &key);
    if (!c) {
        c = g_new(Chain, 1);
        *c = key;
        g_hash_table_add(t->chains, c);
    }
    return c;
}

/* Stepping */

static void add_event(Tool *t, Thread *th, Insn *in, Chain *c, uint64_t addr,
                      unsigned flags)
{
    Event e = {
        .line = flags & SYSCALL ? addr : addr / LINE,
        .insn = in, .chain = c, .req = th->req, .round = t->rounds,
        .thread = th - t->thread, .flags = flags,
    };

    g_array_append_val(t->events, e);
}

static void look_at(Tool *t, Thread *th, const struct user_regs_struct *r)
{
    Insn *in = insn_get(t, r->rip);
    unsigned flags = 0;
    Chain *c;

    th->fs_base = r->fs_base;
    find_stack(t, th, r->rsp);
    c = chain_get(t, th, in);

    if (in->request) {
        th->req++;
        flags |= REQUEST;
    }
    /* A step executes one repetition; they are one instruction. */
    if (!in->rep || th->last_pc != in->pc) {
        flags |= INSN;
    }
    flags |= in->mutex ? MUTEX : 0;
    flags |= in->alloc ? ALLOC : 0;
    flags |= in->locked ? LOCKED : 0;
    th->last_pc = in->pc;
    if (in->sys) {
        add_event(t, th, in, c, r->rax, flags | SYSCALL);
        return;
    }
    add_event(t, th, in, c, 0, flags);

    if (in->call) {
        Frame f = { r->rsp - 8, in->func };

        g_array_append_val(th->frames, f);
    }
    for (unsigned i = 0; i < in->nmem && !(in->rep && !r->rcx); i++) {
        const Mem *m = &in->mem[i];
        const char *regs = (const char *)r;
        uint64_t addr = m->disp;

        if (m->base >= 0) {
            addr += *(const uint64_t *)(regs + m->base);
        }
        if (m->index >= 0) {
            addr += *(const uint64_t *)(regs + m->index) * m->scale;
        }
        if (m->seg >= 0) {
            addr += *(const uint64_t *)(regs + m->seg);
        }
        flags = (m->rd ? RD : 0) | (m->wr ? WR : 0) |
                (in->locked ? LOCKED : 0);
        add_event(t, th, in, c, addr, flags);
        if (addr / LINE != (addr + m->size - 1) / LINE) {
            add_event(t, th, in, c, addr + m->size - 1, flags);
        }
    }
}

/* Returns whether the step is over; without @wait it may not be. */
static bool step_end(Thread *th, bool wait)
{
    int status;
    pid_t pid = waitpid(th->tid, &status, __WALL | (wait ? 0 : WNOHANG));

    if (pid == 0) {
        return false;
    }
    if (pid < 0 || !WIFSTOPPED(status)) {
        die("thread %d has ended", th->tid);
    }
    th->running = false;
    th->sig = WSTOPSIG(status) == SIGTRAP || status >> 16 ?
              0 : WSTOPSIG(status);
    return true;
}

/* Executes one instruction; false if it is a system call that takes time. */
static bool step(Tool *t, Thread *th)
{
    struct user_regs_struct r;

    if (ptrace(PTRACE_GETREGS, th->tid, NULL, &r)) {
        die("registers of %d: %s", th->tid, strerror(errno));
    }
    if (!th->sig) {
        look_at(t, th, &r);
        th->steps++;
    }
    if (ptrace(PTRACE_SINGLESTEP, th->tid, NULL, (void *)(uintptr_t)th->sig)) {
        die("step of %d: %s", th->tid, strerror(errno));
    }
    th->running = true;
    if (!insn_get(t, r.rip)->sys) {
        return step_end(th, true);
    }
    for (unsigned i = 0; i < 50; i++) {
        if (step_end(th, false)) {
            return true;
        }
        g_usleep(2);
    }
    return false;
}

static volatile sig_atomic_t stopped_load;  /* a pid; read by a handler */

static void load_signal(pid_t load, int sig)
{
    if (load) {
        kill(load, sig);
        stopped_load = sig == SIGSTOP ? load : 0;
    }
}

/* At exit: what was stopped cannot end. */
static void load_continue(void)
{
    if (stopped_load) {
        kill(stopped_load, SIGCONT);
    }
}

static void on_signal(int sig)
{
    load_continue();
    _exit(128 + sig);
}

/* Whether all are in system calls and stay there for a while. */
static bool all_wait(Tool *t)
{
    for (unsigned ms = 0; ms < 5; ms++) {
        for (unsigned i = 0; i < t->nthreads; i++) {
            if (!t->thread[i].running || step_end(&t->thread[i], false)) {
                return false;
            }
        }
        g_usleep(1000);
    }
    return true;
}

/* Without a @load until a thread has executed @steps. */
static void trace(Tool *t, pid_t load, uint64_t steps)
{
    bool done = false;

    for (unsigned i = 0; i < t->nthreads; i++) {
        Thread *th = &t->thread[i];

        if (ptrace(PTRACE_SEIZE, th->tid, NULL, NULL) ||
            ptrace(PTRACE_INTERRUPT, th->tid, NULL, NULL)) {
            die("attach to %d: %s", th->tid, strerror(errno));
        }
        step_end(th, true);
        th->stacks = g_hash_table_new(g_int64_hash, g_int64_equal);
    }
    while (!done) {
        load_signal(load, SIGSTOP);
        do {
            for (unsigned i = 0; i < t->nthreads; i++) {
                Thread *th = &t->thread[i];

                if (th->running && !step_end(th, false)) {
                    continue;
                }
                for (int q = 0; q < opt_quantum; q++) {
                    if (!step(t, th)) {
                        break;
                    }
                }
                done |= !load && th->steps >= steps;
            }
        } while (!done && !all_wait(t));
        done |= t->rounds == (unsigned)opt_rounds;
        load_signal(load, SIGCONT);
        g_usleep(done ? 0 : opt_grace * 1000);
        t->rounds += load && !done;
    }
    for (unsigned i = 0; i < t->nthreads; i++) {
        Thread *th = &t->thread[i];

        if (th->running) {
            ptrace(PTRACE_INTERRUPT, th->tid, NULL, NULL);
            step_end(th, true);
        }
        ptrace(PTRACE_DETACH, th->tid, NULL, (void *)(uintptr_t)th->sig);
    }
}

/* Finding the threads */

static char *read_comm(pid_t pid, pid_t tid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task/%d/comm", pid, tid);
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? g_strchomp(text) :
                                                          NULL;
}

static unsigned find_threads(Tool *t, pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", pid);
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    t->nthreads = 0;
    while (dir && (name = g_dir_read_name(dir)) && t->nthreads < MAX_THREADS) {
        Thread *th = &t->thread[t->nthreads];
        g_autofree char *comm = read_comm(pid, atoi(name));

        if (comm && g_str_has_prefix(comm, opt_comm)) {
            memset(th, 0, sizeof(*th));
            th->tid = atoi(name);
            g_strlcpy(th->comm, comm, sizeof(th->comm));
            t->nthreads++;
        }
    }
    if (dir) {
        g_dir_close(dir);
    }
    return t->nthreads;
}

/* The process, @top or one below it, that has the threads; or 0. */
static pid_t find_process(Tool *t, pid_t top)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", top);
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;
    pid_t found = 0;

    if (find_threads(t, top) == (unsigned)opt_threads) {
        found = top;
    }
    while (dir && !found && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_strdup_printf("%s/%s/children", path, name);
        g_autofree char *text = NULL;

        if (g_file_get_contents(file, &text, NULL, NULL)) {
            g_auto(GStrv) child = g_strsplit(g_strchomp(text), " ", -1);

            for (unsigned i = 0; child[i] && *child[i] && !found; i++) {
                found = find_process(t, atoi(child[i]));
            }
        }
    }
    if (dir) {
        g_dir_close(dir);
    }
    return found;
}

/* Results */

static bool is_stack(Tool *t, uint64_t lo)
{
    for (unsigned i = 0; i < t->nthreads; i++) {
        if (g_hash_table_contains(t->thread[i].stacks, &lo)) {
            return true;
        }
    }
    return false;
}

/* Memory of a file that is shared, other than a device's: the guest's. */
static bool is_guest(const Vma *v)
{
    return v && v->shared && !g_str_has_prefix(v->path, "anon_inode");
}

static char *line_name(Tool *t, uint64_t line)
{
    uint64_t addr = line * LINE;
    Vma *v = vma_find(t, addr);

    if (!v) {
        return g_strdup("unmapped since");
    }
    if (is_guest(v)) {
        return g_strdup("guest memory");
    }
    if (v->elf) {
        GString *s = g_string_new("");
        const Sym *last = NULL;

        for (unsigned i = 0; i < LINE; i += 4) {
            const Sym *sym = elf_find(v->elf, addr + i - v->bias, false);

            if (sym && (!last || last->addr != sym->addr)) {
                g_string_append_printf(s, "%s%s", last ? ", " : "", sym->name);
                last = sym;
            }
        }
        if (!last) {
            g_string_append_printf(s, "data of %s", v->path);
        }
        return g_string_free(s, false);
    }
    for (unsigned i = 0; i < t->nthreads; i++) {
        uint64_t fs = t->thread[i].fs_base;

        if (addr < fs + 4096 && addr + 65536 > fs) {
            return g_strdup_printf("TLS of %s", t->thread[i].comm);
        }
    }
    if (is_stack(t, v->lo)) {
        return g_strdup("a stack");
    }
    return g_strdup(v->path[0] ? v->path : "heap");
}

static Line *line_get(Tool *t, uint64_t line)
{
    Line *l = g_hash_table_lookup(t->lines, &line);

    if (!l) {
        l = g_new0(Line, 1);
        l->line = line;
        l->guest = is_guest(vma_find(t, line * LINE));
        g_hash_table_insert(t->lines, &l->line, l);
    }
    return l;
}

/*
 * Whether it belongs to a whole round: the first was under way.  Threads that
 * never wait have none; then from a thread's first request to its last.
 */
static bool counted(const Tool *t, const Event *e)
{
    return t->rounds ? e->round > 0 :
           e->req >= 1 && e->req < t->thread[e->thread].req;
}

static void evaluate(Tool *t, Result *r)
{
    GHashTableIter it;
    Line *l;

    memset(r, 0, sizeof(*r));
    r->threads = t->nthreads;
    r->bad = t->bad;
    r->rounds = t->rounds;
    /* First who uses what, then what that makes of each access. */
    for (guint i = 0; i < t->events->len; i++) {
        Event *e = &g_array_index(t->events, Event, i);

        if (e->flags & (RD | WR)) {
            l = line_get(t, e->line);
            l->readers |= e->flags & RD ? 1 << e->thread : 0;
            l->writers |= e->flags & WR ? 1 << e->thread : 0;
        }
    }
    g_hash_table_iter_init(&it, t->lines);
    while (g_hash_table_iter_next(&it, NULL, (gpointer *)&l)) {
        unsigned users = l->readers | l->writers;

        l->shared = l->writers && (users & (users - 1));
        if (l->shared) {
            l->sites = g_hash_table_new(NULL, NULL);
        }
    }

    for (guint i = 0; i < t->events->len; i++) {
        Event *e = &g_array_index(t->events, Event, i);
        bool in = counted(t, e), moved = false;
        unsigned bit = 1 << e->thread;
        gpointer n;

        if (!(e->flags & (RD | WR))) {
            if (in) {
                r->requests += !!(e->flags & REQUEST);
                r->insns += !!(e->flags & INSN);
                r->locked += !!(e->flags & LOCKED);
                r->mutexes += !!(e->flags & MUTEX);
                r->allocs += !!(e->flags & ALLOC);
                r->syscalls += !!(e->flags & SYSCALL);
                e->insn->count += !!(e->flags & INSN);
                e->chain->locked += !!(e->flags & LOCKED);
                e->chain->mutex += !!(e->flags & MUTEX);
                e->chain->alloc += !!(e->flags & ALLOC);
            }
            continue;
        }
        l = line_get(t, e->line);
        r->writes += in && (e->flags & WR);
        if (!l->shared) {
            continue;
        }
        /* As caches without limits would do: one writer or many readers. */
        if (e->flags & WR) {
            moved = l->cached & ~bit;
            l->cached = bit;
        } else {
            moved = l->cached && !(l->cached & bit);
            l->cached |= bit;
        }
        if (!in) {
            continue;
        }
        if (e->flags & WR) {
            l->wr[e->thread]++;
            l->atomics += !!(e->flags & LOCKED);
        } else {
            l->rd[e->thread]++;
        }
        l->transfers += moved;
        n = g_hash_table_lookup(l->sites, e->insn);
        g_hash_table_insert(l->sites, e->insn,
                            GUINT_TO_POINTER(GPOINTER_TO_UINT(n) + 1));

        if (l->guest) {
            r->guest_wr += !!(e->flags & WR);
            r->guest_transfers += moved;
        } else {
            r->transfers += moved;
            if (e->flags & WR) {
                r->shared_wr++;
                r->shared_wr_locked += !!(e->flags & LOCKED);
                e->chain->shared_wr++;
            }
        }
    }

    g_hash_table_iter_init(&it, t->lines);
    while (g_hash_table_iter_next(&it, NULL, (gpointer *)&l)) {
        uint64_t rd = 0, wr = 0;

        for (unsigned i = 0; i < t->nthreads; i++) {
            rd += l->rd[i];
            wr += l->wr[i];
        }
        if (l->guest) {
            r->guest_lines += rd || wr;
        } else {
            r->lines_wr += !!wr;
            r->lines += rd || wr;
        }
    }
}

static gint by_transfers(gconstpointer a, gconstpointer b)
{
    const Line *x = *(Line **)a, *y = *(Line **)b;

    if (x->transfers != y->transfers) {
        return x->transfers < y->transfers ? 1 : -1;
    }
    return x->line < y->line ? -1 : 1;
}

static size_t sort_offset;

static gint by_counter(gconstpointer a, gconstpointer b)
{
    uint64_t x = *(const uint64_t *)(*(const char **)a + sort_offset);
    uint64_t y = *(const uint64_t *)(*(const char **)b + sort_offset);

    return x < y ? 1 : x > y ? -1 : 0;
}

static GPtrArray *sorted(GHashTable *h, GCompareFunc cmp)
{
    GPtrArray *a = g_ptr_array_new();
    GHashTableIter it;
    gpointer v;

    g_hash_table_iter_init(&it, h);
    while (g_hash_table_iter_next(&it, NULL, &v)) {
        g_ptr_array_add(a, v);
    }
    g_ptr_array_sort(a, cmp);
    return a;
}

static void print_chains(Tool *t, const Result *r, size_t offset,
                         const char *what)
{
    g_autoptr(GPtrArray) a = NULL;

    sort_offset = offset;
    a = sorted(t->chains, by_counter);
    printf("\n%s, per request:\n", what);
    for (guint i = 0; i < MIN(a->len, (guint)opt_top); i++) {
        Chain *c = g_ptr_array_index(a, i);
        uint64_t n = *(uint64_t *)((char *)c + offset);

        if (!n) {
            break;
        }
        printf("%8.3f  ", (double)n / r->requests);
        for (unsigned k = 0; k < DEPTH && c->func[k]; k++) {
            printf("%s%s", k ? " < " : "", c->func[k]);
        }
        printf("\n");
    }
}

static void print_functions(Tool *t, const Result *r)
{
    g_autoptr(GHashTable) sum = g_hash_table_new(NULL, NULL);
    g_autoptr(GPtrArray) a = NULL;
    GHashTableIter it;
    Insn *in;

    /* A chain without callers does as the sum of a function. */
    g_hash_table_iter_init(&it, t->insns);
    while (g_hash_table_iter_next(&it, NULL, (gpointer *)&in)) {
        Chain *c = g_hash_table_lookup(sum, in->func);

        if (!c) {
            c = g_new0(Chain, 1);
            c->func[0] = in->func;
            g_hash_table_insert(sum, (gpointer)in->func, c);
        }
        c->locked += in->count;
    }
    sort_offset = offsetof(Chain, locked);
    a = sorted(sum, by_counter);
    printf("\ninstructions, per request:\n");
    for (guint i = 0; i < MIN(a->len, (guint)opt_top); i++) {
        Chain *c = g_ptr_array_index(a, i);

        printf("%8.1f  %s\n", (double)c->locked / r->requests, c->func[0]);
    }
}

/* The innermost source lines of @in, or "". */
static char *source_line(Tool *t, Insn *in)
{
    Vma *v = vma_find(t, in->pc);
    g_autofree char *addr = NULL, *out = NULL;
    const char *argv[] = { "addr2line", "-s", "-i", "-e", NULL, NULL, NULL };

    if (!opt_lines || !v || !v->elf) {
        return g_strdup("");
    }
    addr = g_strdup_printf("%" PRIx64, in->pc - v->bias);
    argv[4] = v->elf->path;
    argv[5] = addr;
    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL,
                      NULL, &out, NULL, NULL, NULL)) {
        return g_strdup("");
    }
    return g_strdelimit(g_strdup(g_strchomp(out)), "\n", ' ');
}

static void print_lines(Tool *t, const Result *r, bool guest)
{
    g_autoptr(GPtrArray) a = sorted(t->lines, by_transfers);
    int left = opt_top;

    printf("\nshared lines of %s; per request: transfers, writes, locked "
           "writes, reads\n", guest ? "the guest" : "QEMU");
    for (guint i = 0; i < a->len && left; i++) {
        Line *l = g_ptr_array_index(a, i);
        uint64_t wr = 0, rd = 0;
        g_autofree char *name = NULL;
        GHashTableIter it;
        gpointer key, n;

        if (!l->shared || l->guest != guest) {
            continue;
        }
        left--;
        for (unsigned k = 0; k < t->nthreads; k++) {
            wr += l->wr[k];
            rd += l->rd[k];
        }
        name = line_name(t, l->line);
        printf("%8.3f %7.3f %7.3f %7.3f  %" PRIx64 " %s\n",
               (double)l->transfers / r->requests, (double)wr / r->requests,
               (double)l->atomics / r->requests, (double)rd / r->requests,
               l->line * LINE, name);
        g_hash_table_iter_init(&it, l->sites);
        while (g_hash_table_iter_next(&it, &key, &n)) {
            Insn *in = key;
            g_autofree char *src = NULL;
            double per = (double)GPOINTER_TO_UINT(n) / r->requests;
            const char *how = "r";

            if (per < 0.004) {
                continue;
            }
            for (unsigned m = 0; m < in->nmem; m++) {
                how = in->locked ? "L" : in->mem[m].wr ? "w" : how;
            }
            src = source_line(t, in);
            printf("          %7.3f %s %s %s\n", per, how, in->func, src);
        }
    }
}

static void print_result(const Result *r)
{
    double n = MAX(r->requests, 1);

    printf("threads %u, requests %" PRIu64 ", rounds %u\n"
           "per request:\n", r->threads, r->requests, r->rounds);
    printf("%10.1f instructions\n", r->insns / n);
    printf("%10.3f atomic read-modify-writes\n", r->locked / n);
    printf("%10.3f mutexes locked\n", r->mutexes / n);
    printf("%10.3f allocations\n", r->allocs / n);
    printf("%10.3f system calls\n", r->syscalls / n);
    printf("%10.1f writes to memory\n", r->writes / n);
    printf("%10.3f writes to shared lines of QEMU\n", r->shared_wr / n);
    printf("%10.3f   of these atomic\n", r->shared_wr_locked / n);
    printf("%10.3f transfers of lines of QEMU\n", r->transfers / n);
    printf("%10.3f writes to shared lines of the guest\n", r->guest_wr / n);
    printf("%10.3f transfers of lines of the guest\n", r->guest_transfers / n);
    printf("in all:\n");
    printf("%10" PRIu64 " shared lines of QEMU, %" PRIu64 " of them written\n",
           r->lines, r->lines_wr);
    printf("%10" PRIu64 " shared lines of the guest\n", r->guest_lines);
    if (r->bad) {
        printf("%10" PRIu64 " instructions (of the program) with operands "
               "not understood\n", r->bad);
    }
}

static void tool_init(Tool *t)
{
    memset(t, 0, sizeof(*t));
    if (cs_open(CS_ARCH_X86, CS_MODE_64, &t->cs) ||
        cs_option(t->cs, CS_OPT_DETAIL, CS_OPT_ON)) {
        die("capstone does not do x86");
    }
    t->vmas = g_ptr_array_new();
    t->elfs = g_hash_table_new(g_str_hash, g_str_equal);
    t->insns = g_hash_table_new(g_int64_hash, g_int64_equal);
    t->lines = g_hash_table_new(g_int64_hash, g_int64_equal);
    t->chains = g_hash_table_new(chain_hash, chain_equal);
    t->events = g_array_new(false, false, sizeof(Event));
}

/*
 * Traces the threads below @top, which go on afterwards.  @load is a process
 * that feeds them and does not run meanwhile; if 0, @steps are taken.
 */
static void tool_run(Tool *t, pid_t top, pid_t load, uint64_t steps, Result *r)
{
    g_autofree char *path = NULL;

    /* The same one twice: a load may try its QEMU in one that ends at once. */
    for (unsigned i = 0; ; i++) {
        pid_t pid = find_process(t, top);

        if (i == 100 || waitpid(top, NULL, WNOHANG)) {
            die("no process with %d threads \"%s\"", opt_threads, opt_comm);
        }
        g_usleep(pid ? opt_settle * 1000000 + 1000 : 200000);
        t->pid = find_process(t, top);
        if (pid && pid == t->pid) {
            break;
        }
    }

    path = g_strdup_printf("/proc/%d/mem", t->pid);
    t->mem = open(path, O_RDONLY | O_CLOEXEC);
    if (t->mem < 0) {
        die("%s: %s", path, strerror(errno));
    }
    read_maps(t);
    trace(t, load, steps);
    read_maps(t);
    evaluate(t, r);
}

/* A program of which all is known */

enum { ST_SHARED_ATOMIC = 3, ST_PRIVATE_ATOMIC = 2, ST_NOPS = 1000 };

static struct {
    uint64_t atomic[8];         /* both threads change it */
    uint64_t plain[8];          /* both write it */
    uint64_t constant[8];       /* both read it, nobody writes it */
    uint64_t one_writer[8];     /* thread 0 writes it, thread 1 reads it */
    struct {
        uint64_t atomic[8];
        pthread_mutex_t mutex;
        void *volatile memory;  /* or the compiler drops malloc() */
    } __attribute__((aligned(2 * LINE))) own[2];
} __attribute__((aligned(2 * LINE))) st;

static bool st_nops;

static void __attribute__((noinline, used)) self_test_request(unsigned me)
{
    for (unsigned i = 0; i < ST_SHARED_ATOMIC; i++) {
        asm volatile("lock incq %0" : "+m" (st.atomic[0]));
    }
    asm volatile("lock incq %0" : "+m" (st.own[me].atomic[0]));
    asm volatile("xchgq %0, %1" : "+m" (st.own[me].atomic[1])
                                : "r" (1ull) : "memory");
    /* Different words of one line: shared all the same. */
    asm volatile("movlps %%xmm0, %0" : "=m" (st.plain[me]));
    asm volatile("movq %0, %%rax" : : "m" (st.constant[0]) : "rax");
    asm volatile("testb $1, %0\n btl $1, %0" : : "m" (st.constant[0]) : "cc");
    if (me == 0) {
        asm volatile("setc %0" : "=m" (*(uint8_t *)st.one_writer));
    } else {
        asm volatile("movq %0, %%rax" : : "m" (st.one_writer[0]) : "rax");
    }
    pthread_mutex_lock(&st.own[me].mutex);
    pthread_mutex_unlock(&st.own[me].mutex);
    st.own[me].memory = malloc(LINE);
    free(st.own[me].memory);
    if (st_nops) {
        asm volatile(".rept 1000\n nop\n .endr");
    }
}

static void *self_test_thread(void *opaque)
{
    unsigned me = GPOINTER_TO_UINT(opaque);

    prctl(PR_SET_NAME, me ? "IO one" : "IO zero");
    for (;;) {
        self_test_request(me);
    }
    return NULL;
}

static void self_test_run(bool nops, uint64_t steps, Result *r)
{
    pid_t child = fork();
    Tool *t = g_new(Tool, 1);

    if (child < 0) {
        die("fork: %s", strerror(errno));
    }
    if (child == 0) {
        pthread_t thread[2];

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        st_nops = nops;
        for (unsigned i = 0; i < 2; i++) {
            pthread_create(&thread[i], NULL, self_test_thread,
                           GUINT_TO_POINTER(i));
        }
        pause();
        _exit(1);
    }
    tool_init(t);
    tool_run(t, child, 0, steps, r);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static unsigned st_failed, st_tests;

static void self_test_check(const char *what, double got, double want,
                            double tolerance)
{
    bool ok = got >= want - tolerance && got <= want + tolerance;

    printf("%sok %u - %s\n", ok ? "" : "not ", ++st_tests, what);
    if (!ok) {
        printf("# %g instead of %g\n", got, want);
        st_failed++;
    }
}

static int self_test(void)
{
    const char *names[] = {
        "atomics", "mutexes", "writes to shared lines", "atomics of these",
        "shared lines that are written", "shared lines that are used",
        "no system calls", "guest memory",
        "allocations",
    };
    Result r, n;
    double half;

    opt_threads = 2;
    opt_comm = (char *)"IO ";
    opt_request = (char *)"self_test_request";
    opt_settle = 0;
    self_test_run(false, 10000, &r);
    self_test_run(true, 50000, &n);

    /* The line with one writer is written in half of the requests. */
    half = 0.02;
    self_test_check(names[0], (double)r.locked / r.requests,
                    ST_SHARED_ATOMIC + ST_PRIVATE_ATOMIC + 2, 0);
    self_test_check(names[1], (double)r.mutexes / r.requests, 1, 0);
    self_test_check(names[2], (double)r.shared_wr / r.requests,
                    ST_SHARED_ATOMIC + 1 + 0.5, half);
    self_test_check(names[3], (double)r.shared_wr_locked / r.requests,
                    ST_SHARED_ATOMIC, 0);
    self_test_check(names[4], r.lines_wr, 3, 0);
    self_test_check(names[5], r.lines, 3, 0);
    self_test_check(names[6], r.syscalls, 0, 0);
    self_test_check(names[7], r.guest_lines, 0, 0);
    self_test_check(names[8], (double)r.allocs / r.requests, 1, 0);
    self_test_check("instructions", (double)n.insns / n.requests -
                    (double)r.insns / r.requests, ST_NOPS, half);
    self_test_check("transfers, at least one and at most one a use",
                    (double)r.transfers / r.requests, 3, 3);
    printf("1..%u\n", st_tests);
    return st_failed ? 1 : 0;
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) ctx = g_option_context_new("-- COMMAND ARG...");
    g_autoptr(GError) err = NULL;
    struct sigaction act = { .sa_handler = on_signal };
    Tool *t = g_new(Tool, 1);
    pid_t child;
    Result r;

    g_option_context_add_main_entries(ctx, entries, NULL);
    g_option_context_set_summary(ctx,
        "Starts COMMAND, executes the IOThreads of the QEMU that it runs step\n"
        "by step for a while, tells what a request costs in locks and shared\n"
        "cache lines, and interrupts COMMAND.");
    if (!g_option_context_parse(ctx, &argc, &argv, &err)) {
        die("%s", err->message);
    }
    if (opt_threads < 1 || opt_threads > MAX_THREADS || opt_quantum < 1) {
        die("--threads is 1 to %d, --quantum at least 1", MAX_THREADS);
    }
    if (opt_self_test) {
        return self_test();
    }
    if (argc > 1 && !strcmp(argv[1], "--")) {
        argv++, argc--;
    }
    if (argc < 2) {
        die("which command?");
    }
    child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGINT);
        execvp(argv[1], argv + 1);
        die("%s: %s", argv[1], strerror(errno));
    }
    if (child < 0) {
        die("fork: %s", strerror(errno));
    }
    atexit(load_continue);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    tool_init(t);
    tool_run(t, child, child, 0, &r);
    print_result(&r);
    print_chains(t, &r, offsetof(Chain, mutex), "mutexes");
    print_chains(t, &r, offsetof(Chain, alloc), "allocations");
    print_chains(t, &r, offsetof(Chain, locked), "atomic read-modify-writes");
    if (t->nthreads > 1) {
        print_chains(t, &r, offsetof(Chain, shared_wr),
                     "writes to shared lines of QEMU");
        print_lines(t, &r, false);
        print_lines(t, &r, true);
    }
    print_functions(t, &r);
    fflush(stdout);
    kill(child, SIGINT);
    waitpid(child, NULL, 0);
    return r.requests ? 0 : 1;
}
