/* Preloaded into a server that knows no bind address: its sockets listen on loopback alone. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <string.h>
#include <sys/socket.h>

typedef int (*binder)(int, const struct sockaddr *, socklen_t);

int bind(int descriptor, const struct sockaddr *address, socklen_t length) {
    struct sockaddr_storage mine;
    binder system_bind = (binder)dlsym(RTLD_NEXT, "bind");
    memset(&mine, 0, sizeof mine);
    memcpy(&mine, address, length);
    if (address->sa_family == AF_INET)
        ((struct sockaddr_in *)&mine)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (address->sa_family == AF_INET6)
        ((struct sockaddr_in6 *)&mine)->sin6_addr = in6addr_loopback;
    return system_bind(descriptor, (struct sockaddr *)&mine, length);
}
