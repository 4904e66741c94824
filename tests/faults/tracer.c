/* A tracer that counts a command's system calls and makes one of them fail.
 *
 * Counted are the calls in CALLS that are about a file below one directory, those of each
 * name apart, from 1. Those of the command itself, its threads and its forks together, and
 * those of the programs that it starts are counted apart, too. At one of them the tracer
 *
 *   - lets the kernel skip the call and return an error (seccomp(2), SECCOMP_RET_TRACE:
 *     the system call's number becomes -1, and the result is what the tracer says),
 *   - asks the kernel for half of the length, so that the call really is a short one, or
 *   - sends a signal, to the command or to that process, which may be a fork: SIGKILL ends
 *     it before its call is carried out, any other signal is delivered after it.
 *
 * A filter of the command's own makes the kernel stop it at these calls only: at every
 * call it would take four times as long. Neither the filter nor PTRACE_SEIZE of a child
 * needs a privilege. x86_64 only: changing a call takes the machine's registers.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

enum { NONE = -1, ARGUMENTS = 6, TASKS = 4096 };
enum action { COUNT, FAIL, SHORTEN, SIGNAL, SIGNAL_CALLER };

/* Which argument is the descriptor (or the directory of the path), the path, the length. */
struct call {
    long number;
    const char *name;
    int fd, path, length;
};

#define FD(name, fd) {SYS_##name, #name, fd, NONE, NONE}
#define AT(name, fd, path) {SYS_##name, #name, fd, path, NONE}
#define PATH(name, path) {SYS_##name, #name, NONE, path, NONE}
#define LONG(name, fd, length) {SYS_##name, #name, fd, NONE, length}

static const struct call CALLS[] = {
    AT(openat, 0, 1), AT(openat2, 0, 1), PATH(open, 0),
    LONG(read, 0, 2), LONG(pread64, 0, 2), LONG(readv, 0, 2),
    LONG(preadv, 0, 2), LONG(preadv2, 0, 2),
    LONG(write, 0, 2), LONG(pwrite64, 0, 2), LONG(writev, 0, 2),
    LONG(pwritev, 0, 2), LONG(pwritev2, 0, 2),
    LONG(copy_file_range, 2, 4), LONG(sendfile, 0, 3),
    FD(lseek, 0), FD(fstat, 0), FD(fstatfs, 0), FD(getdents64, 0), FD(mmap, 4),
    FD(ioctl, 0), FD(fcntl, 0), FD(flock, 0), FD(dup, 0),
    FD(fallocate, 0), FD(ftruncate, 0), FD(fsync, 0), FD(fdatasync, 0), FD(syncfs, 0),
    FD(sync_file_range, 0), FD(fchmod, 0), FD(fchown, 0),
    FD(fsetxattr, 0), FD(fgetxattr, 0), FD(flistxattr, 0), FD(fremovexattr, 0),
    AT(newfstatat, 0, 1), AT(statx, 0, 1), AT(faccessat, 0, 1), AT(faccessat2, 0, 1),
    AT(readlinkat, 0, 1), AT(unlinkat, 0, 1), AT(mkdirat, 0, 1), AT(utimensat, 0, 1),
    AT(fchmodat, 0, 1), AT(fchmodat2, 0, 1), AT(fchownat, 0, 1),
    AT(linkat, 2, 3), AT(renameat, 2, 3), AT(renameat2, 2, 3), AT(symlinkat, 1, 2),
    PATH(stat, 0), PATH(lstat, 0), PATH(statfs, 0), PATH(access, 0), PATH(readlink, 0),
    PATH(unlink, 0), PATH(mkdir, 0), PATH(rmdir, 0), PATH(chmod, 0), PATH(chown, 0),
    PATH(link, 1), PATH(rename, 1), PATH(symlink, 1),
    PATH(setxattr, 0), PATH(getxattr, 0), PATH(lgetxattr, 0), PATH(listxattr, 0),
    PATH(removexattr, 0), PATH(chdir, 0), PATH(truncate, 0),
};

struct task {
    pid_t id, group;
    int other; /* of another program */
};

/* What is to be done, and where: see trace(). */
struct plan {
    pid_t child;
    const char *below;
    int log, other;
    const char *name;
    long at;
    enum action action;
    int value;
};

static struct task tasks[TASKS];
static int living;

/* Have the kernel stop this process, and all that it starts, at the calls in CALLS. */
int watched(void)
{
    enum { COUNT_OF_CALLS = sizeof CALLS / sizeof *CALLS };
    struct sock_filter filter[COUNT_OF_CALLS + 3];
    struct sock_fprog program = {COUNT_OF_CALLS + 3, filter};
    struct sock_filter *next = filter;
    *next++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                           offsetof(struct seccomp_data, nr));
    for (int i = 0; i < COUNT_OF_CALLS; i++)
        *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CALLS[i].number,
                                               COUNT_OF_CALLS - i, 0);
    *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -errno;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) ? -errno : 0;
}

static void read_link(pid_t id, const char *what, char *result)
{
    char link[PATH_MAX];
    snprintf(link, sizeof link, "/proc/%d/%s", id, what);
    ssize_t length = readlink(link, result, PATH_MAX - 1);
    result[length > 0 ? length : 0] = 0;
}

/* Find whether a process is of the command's program: itself, or forked from it. */
static int is_other(pid_t id, pid_t child)
{
    char its[PATH_MAX], ours[PATH_MAX];
    read_link(id, "exe", its);
    read_link(child, "exe", ours);
    return its[0] && ours[0] && strcmp(its, ours);
}

static struct task *task_of(pid_t id, pid_t child)
{
    for (int i = 0; i < living; i++)
        if (tasks[i].id == id)
            return &tasks[i];
    if (living == TASKS)
        abort();
    char path[64], line[128];
    struct task *task = &tasks[living++];
    *task = (struct task){.id = id, .group = id, .other = is_other(id, child)};
    snprintf(path, sizeof path, "/proc/%d/status", id);
    FILE *status = fopen(path, "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "Tgid: %d", &task->group) == 1)
            break;
    if (status)
        fclose(status);
    return task;
}

static void forget(pid_t id)
{
    for (int i = 0; i < living; i++)
        if (tasks[i].id == id)
            tasks[i] = tasks[--living];
}

static const struct call *call_of(long number)
{
    for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++)
        if (CALLS[i].number == number)
            return &CALLS[i];
    return NULL;
}

static void path_of_fd(pid_t id, int fd, char *result)
{
    char what[64] = "cwd";
    if (fd != AT_FDCWD)
        snprintf(what, sizeof what, "fd/%d", fd);
    read_link(id, what, result);
}

/* Read a string of the task, page by page: the next page need not be there. */
static void read_string(pid_t id, unsigned long address, char *result)
{
    size_t done = 0;
    while (done < PATH_MAX - 1) {
        size_t part = 4096 - (address + done) % 4096;
        if (part > PATH_MAX - 1 - done)
            part = PATH_MAX - 1 - done;
        struct iovec here = {result + done, part};
        struct iovec there = {(void *)(address + done), part};
        ssize_t got = process_vm_readv(id, &here, 1, &there, 1, 0);
        if (got <= 0)
            break;
        if (memchr(result + done, 0, got))
            return;
        done += got;
    }
    result[done] = 0;
}

/* Find which file a call is about; a name in /proc/self/fd is that of what it leads to. */
/* Return whether it is by its name, and not by a descriptor. */
static int path_of(pid_t id, const struct call *call, const uint64_t *argument, char *result)
{
    static const char MAGIC[] = "/proc/self/fd/";
    char name[PATH_MAX] = "", directory[PATH_MAX] = "";
    if (call->path != NONE && argument[call->path])
        read_string(id, argument[call->path], name);
    if (!strncmp(name, MAGIC, sizeof MAGIC - 1)) {
        path_of_fd(id, atoi(name + sizeof MAGIC - 1), result);
    } else if (name[0] == '/') {
        strcpy(result, name);
    } else {
        path_of_fd(id, call->fd == NONE ? AT_FDCWD : (int)argument[call->fd], directory);
        if (name[0])
            snprintf(result, 2 * PATH_MAX, "%s/%s", directory, name);
        else
            strcpy(result, directory);
    }
    return name[0] != 0;
}

static int is_direct(pid_t id, int fd)
{
    char path[64], line[128];
    unsigned flags = 0;
    snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", id, fd);
    FILE *information = fopen(path, "r");
    while (information && fgets(line, sizeof line, information))
        if (sscanf(line, "flags: %o", &flags) == 1)
            break;
    if (information)
        fclose(information);
    return flags & O_DIRECT;
}

/* Return half of a length, in whole blocks where there are two; 0 if it has no half. */
static unsigned long half(unsigned long length, int direct)
{
    if (length >= 8192)
        return length / 2 / 4096 * 4096;
    return direct ? 0 : length / 2;
}

static int shorten_vector(pid_t id, struct user_regs_struct *registers, int direct)
{
    if (registers->rdx > 1) {
        registers->rdx /= 2;
        return 1;
    }
    struct iovec vector;
    struct iovec here = {&vector, sizeof vector}, there = {(void *)registers->rsi, sizeof vector};
    if (process_vm_readv(id, &here, 1, &there, 1, 0) != sizeof vector)
        return 0;
    vector.iov_len = half(vector.iov_len, direct);
    return vector.iov_len
        && process_vm_writev(id, &here, 1, &there, 1, 0) == sizeof vector;
}

static int shorten(pid_t id, const struct call *call, struct user_regs_struct *registers)
{
    unsigned long long *lengths[] = {NULL, NULL, &registers->rdx, &registers->r10, &registers->r8};
    unsigned long long *fds[] = {&registers->rdi, NULL, &registers->rdx};
    int direct = is_direct(id, (int)*fds[call->fd]);
    if (strstr(call->name, "v") && strcmp(call->name, "copy_file_range"))
        return shorten_vector(id, registers, direct);
    unsigned long long shorter = half(*lengths[call->length], direct);
    if (!shorter)
        return 0;
    *lengths[call->length] = shorter;
    return 1;
}

/* What is to be done to the call that the task is about to make; 1 if it was done. */
static int inject(struct task *task, const struct call *call, const struct plan *plan)
{
    enum action action = plan->action;
    struct user_regs_struct registers;
    struct iovec vector = {&registers, sizeof registers};
    if (action == SIGNAL || action == SIGNAL_CALLER) {
        pid_t process = action == SIGNAL ? plan->child : task->group;
        return !syscall(SYS_tgkill, process, process, plan->value);
    }
    ptrace(PTRACE_GETREGSET, task->id, NT_PRSTATUS, &vector);
    if (action == FAIL) {
        registers.orig_rax = -1;
        registers.rax = -plan->value;
    } else if (call->length == NONE || !shorten(task->id, call, &registers)) {
        return 0;
    }
    return !ptrace(PTRACE_SETREGSET, task->id, NT_PRSTATUS, &vector);
}

/* Count a call that is about a file below the directory, log it, and inject if it is the one. */
static void met(struct task *task, const struct plan *plan,
                long counted[2][sizeof CALLS / sizeof *CALLS])
{
    struct __ptrace_syscall_info information;
    char path[2 * PATH_MAX + 2];
    if (ptrace(PTRACE_GET_SYSCALL_INFO, task->id, sizeof information, &information) < 0)
        return; /* killed meanwhile */
    const struct call *call = call_of(information.seccomp.nr);
    const uint64_t *argument = information.seccomp.args;
    int named = path_of(task->id, call, argument, path);
    if (strncmp(path, plan->below, strlen(plan->below)))
        return;
    long number = ++counted[task->other][call - CALLS];
    int now = task->other == plan->other && number == plan->at
        && !strcmp(call->name, plan->name) && inject(task, call, plan);
    char whose = task->other ? 'p' : task->group == plan->child ? 'c' : 'f';
    dprintf(plan->log, "%c %ld %c %c %s %lx %lx %lx %s\n", whose, number, now ? '!' : '=',
            named ? 'n' : 'd', call->name, argument[0], argument[1], argument[2], path);
}

/* Trace a stopped child to its end, and all that it starts; return its wait(2) status.
 *
 * Each call that is counted becomes a line of the log: whose (c of the command, f of a fork
 * of it, p of another program), its number among those of its name, "=" or, where it was
 * injected, "!", whether it is about a name or a descriptor, what it is called, its first
 * three arguments, its path. `other`, `name` and `at` say which call is meant; `at` is 0 for
 * none.
 */
int trace(pid_t child, const char *below, int log, int other, const char *name, long at,
          int action, int value)
{
    const struct plan plan = {child, below, log, other, name, at, action, value};
    long counted[2][sizeof CALLS / sizeof *CALLS] = {{0}};
    int result = -1, status;
    living = 0;
    if (ptrace(PTRACE_SEIZE, child, NULL,
               PTRACE_O_EXITKILL | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE
                   | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC))
        return -errno;
    kill(child, SIGCONT);
    for (;;) {
        pid_t id = waitpid(-1, &status, __WALL);
        if (id < 0 && errno == EINTR)
            continue;
        if (id < 0)
            return result; /* all have ended */
        struct task *task = task_of(id, child);
        if (!WIFSTOPPED(status)) {
            if (id == child)
                result = status;
            forget(id);
            continue;
        }
        if (status >> 16 == PTRACE_EVENT_SECCOMP)
            met(task, &plan, counted);
        else if (status >> 16 == PTRACE_EVENT_EXEC)
            task->other = 1;
        /* What is no event is a signal, to be delivered. */
        ptrace(PTRACE_CONT, id, NULL, status >> 16 ? 0 : WSTOPSIG(status));
    }
}
