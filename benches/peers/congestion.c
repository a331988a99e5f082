/* A `socket` that stands before the C library's own, so that TCP connections of programs that have no setting for it
 * have the congestion control of all other contenders: the one that CONGESTION_CONTROL names. Accepted connections
 * have that of their listener. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int socket(int domain, int type, int protocol)
{
    static int (*real)(int, int, int);
    if (!real)
        real = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
    int fd = real(domain, type, protocol);
    const char *name = getenv("CONGESTION_CONTROL");
    int is_tcp = (domain == AF_INET || domain == AF_INET6) && (type & 15) == SOCK_STREAM;
    if (fd >= 0 && is_tcp && name && *name
        && setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, strlen(name)) != 0) {
        perror("cannot set the congestion control");
        exit(1);
    }
    return fd;
}
