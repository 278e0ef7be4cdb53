/* A PKCS#11 library that passes everything on to another one, but for what a file says.
 * The file holds what C_DecryptInit does: a CK_RV in hex (always answered), "once <hex>" (answered once, the file is
 * removed), "hang" or "die"; or "flags <hex>": the token has these flags too; or "without <hex>": and lacks this
 * mechanism. Each C_Login adds a byte to the file of this name with ".logins" behind. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long CK_RV;
/* CK_FUNCTION_LIST: a version (2 bytes, padded to a pointer) and 68 function pointers; C_DecryptInit is number 33. */
#define FUNCTIONS 68
#define GET_TOKEN_INFO 6
#define GET_MECHANISM_LIST 7
#define LOGIN 18
#define DECRYPT_INIT 33
#define FLAGS_AT 96 /* in CK_TOKEN_INFO, behind four texts */
struct list { unsigned char version[sizeof(void *)]; void *call[FUNCTIONS]; };

static struct list mine;
static CK_RV (*decrypt_init)(unsigned long, void *, unsigned long);
static CK_RV (*get_token_info)(unsigned long, char *);
static CK_RV (*get_mechanism_list)(unsigned long, unsigned long *, unsigned long *);
static CK_RV (*login)(unsigned long, unsigned long, void *, unsigned long);

static char text[64];

static int ordered(const char *what)
{
    FILE *orders = fopen(ORDERS, "r");
    if (!orders)
        return 0;
    size_t count = fread(text, 1, sizeof text - 1, orders);
    text[count] = 0;
    fclose(orders);
    return !strncmp(text, what, strlen(what));
}

static CK_RV faulty_get_token_info(unsigned long slot, char *info)
{
    CK_RV answer = get_token_info(slot, info);
    if (!answer && ordered("flags "))
        *(unsigned long *)(info + FLAGS_AT) |= strtoul(text + 6, 0, 16);
    return answer;
}

static CK_RV faulty_get_mechanism_list(unsigned long slot, unsigned long *list, unsigned long *count)
{
    CK_RV answer = get_mechanism_list(slot, list, count);
    if (!answer && list && ordered("without "))
        for (unsigned long n = 0; n < *count; n++)
            if (list[n] == strtoul(text + 8, 0, 16))
                list[n] = list[(n + 1) % *count];
    return answer;
}

static CK_RV counted_login(unsigned long session, unsigned long who, void *pin, unsigned long length)
{
    FILE *logins = fopen(ORDERS ".logins", "a");
    if (logins) {
        fputc('x', logins);
        fclose(logins);
    }
    return login(session, who, pin, length);
}

static CK_RV faulty_decrypt_init(unsigned long session, void *mechanism, unsigned long key)
{
    if (ordered("") && !ordered("flags ") && !ordered("without ")) {
        if (!strncmp(text, "once ", 5)) {
            unlink(ORDERS);
            return strtoul(text + 5, 0, 16);
        }
        if (!strncmp(text, "hang", 4))
            for (;;) pause();
        if (!strncmp(text, "die", 3))
            abort();
        return strtoul(text, 0, 16);
    }
    return decrypt_init(session, mechanism, key);
}

CK_RV C_GetFunctionList(struct list **out)
{
    void *library = dlopen(BEHIND, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return 5; /* CKR_GENERAL_ERROR */
    CK_RV (*get)(struct list **) = (CK_RV (*)(struct list **))dlsym(library, "C_GetFunctionList");
    struct list *theirs;
    CK_RV answer = get(&theirs);
    if (answer)
        return answer;
    mine = *theirs;
    decrypt_init = (CK_RV (*)(unsigned long, void *, unsigned long))mine.call[DECRYPT_INIT];
    mine.call[DECRYPT_INIT] = (void *)faulty_decrypt_init;
    get_token_info = (CK_RV (*)(unsigned long, char *))mine.call[GET_TOKEN_INFO];
    mine.call[GET_TOKEN_INFO] = (void *)faulty_get_token_info;
    get_mechanism_list = (CK_RV (*)(unsigned long, unsigned long *, unsigned long *))mine.call[GET_MECHANISM_LIST];
    mine.call[GET_MECHANISM_LIST] = (void *)faulty_get_mechanism_list;
    login = (CK_RV (*)(unsigned long, unsigned long, void *, unsigned long))mine.call[LOGIN];
    mine.call[LOGIN] = (void *)counted_login;
    *out = &mine;
    return 0;
}
