/* SPDX-License-Identifier: MIT */
/*
 * Intrusive lists.  No Lua, no allocation: the links live inside the linked structures, so linking
 * and unlinking never fail.  A list belongs to one thread.
 */
#ifndef CONCUR_LIST_H
#define CONCUR_LIST_H

#include <stdbool.h>
#include <stddef.h>

#pragma GCC visibility push(hidden)

/* The structure of type `type` that contains `member` at `pointer`. */
#define concur_container_of(pointer, type, member) \
  ((type *)(void *)((char *)(pointer) - offsetof(type, member)))

/* A link, and also the head of a circular doubly linked list.  Unlinked: next == NULL. */
typedef struct concur_node {
  struct concur_node *next;
  struct concur_node *prev;
} concur_node;

static inline void concur_list_init(concur_node *head) {
  head->next = head;
  head->prev = head;
}

static inline bool concur_list_empty(const concur_node *head) {
  return head->next == head;
}

static inline bool concur_node_linked(const concur_node *node) {
  return node->next != NULL;
}

static inline void concur_list_append(concur_node *head, concur_node *node) {
  node->next = head;
  node->prev = head->prev;
  head->prev->next = node;
  head->prev = node;
}

static inline void concur_list_prepend(concur_node *head, concur_node *node) {
  node->next = head->next;
  node->prev = head;
  head->next->prev = node;
  head->next = node;
}

/* Takes the node out of its list; does nothing when it is in none. */
static inline void concur_node_unlink(concur_node *node) {
  if (node->next != NULL) {
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->next = NULL;
    node->prev = NULL;
  }
}

/* Takes the first node out and returns it; NULL when the list is empty. */
static inline concur_node *concur_list_pop(concur_node *head) {
  concur_node *node = head->next;
  if (node == head) return NULL;
  concur_node_unlink(node);
  return node;
}

#pragma GCC visibility pop

#endif
