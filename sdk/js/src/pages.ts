/** Lists: one page at a time, or all items one after the other. */

/** `items`, of `total` that there are, from `offset` on. */
export interface Page<Item> {
  items: Item[];
  total: number;
  limit: number;
  offset: number;
  hasMore: boolean;
}

/**
 * What `list()` returns. `await` it for one page; `for await` over it gives every item from there to the end of the
 * list, over `pages()` every page. Nothing is asked before.
 */
export class Listing<Item> implements PromiseLike<Page<Item>>, AsyncIterable<Item> {
  readonly #fetch: (offset: number) => Promise<Page<Item>>;
  readonly #offset: number;
  #first: Promise<Page<Item>> | undefined;

  constructor(offset: number, fetchPage: (offset: number) => Promise<Page<Item>>) {
    this.#offset = offset;
    this.#fetch = fetchPage;
  }

  then<A = Page<Item>, B = never>(
    fulfilled?: ((page: Page<Item>) => A | PromiseLike<A>) | null,
    rejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.#first ??= this.#fetch(this.#offset);
    return this.#first.then(fulfilled, rejected);
  }

  async *pages(): AsyncGenerator<Page<Item>> {
    for (let page = await this.then(); ; page = await this.#fetch(page.offset + page.items.length)) {
      yield page;
      if (!page.hasMore || page.items.length === 0) return;
    }
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Item> {
    for await (const page of this.pages()) yield* page.items;
  }
}
