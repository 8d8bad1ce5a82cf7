package tidemark

import "context"

// TxDriver is what a [Driver] implements besides when the server's own code can
// write models in a transaction that it bounds itself, together with whatever else it does
// there. Such a transaction travels in a context (see [WithTx]): Find,
// Snapshot, Write and WriteTx of a context that carries one take part in it,
// and what they do counts when it is committed. A context that carries the transaction
// of another driver, or one that has ended, is CodeInvalidRequest.
//
// In a transaction a refused mutation disturbs nothing else, as always. After any other
// error of Write the transaction may not be committed.
type TxDriver interface {
	Driver

	// WriteTx is Write with a witness of the transaction, its own or the one that ctx carries.
	// Without mutations it does nothing in a transaction but have w hear of its end.
	WriteTx(ctx context.Context, ms []Mutation, w Witness) ([]Outcome, error)
}

// Witness hears of the transactions in which a [TxDriver] makes the mutations of
// one WriteTx: usually one, each time Decided and then Ended. It does not hear of attempts
// that the driver begins anew, nor of mutations that are refused without the database.
// It must not use the driver.
type Witness interface {
	// Decided is called with the outcomes of ms[from:from+len(outs)] while no other
	// transaction can write their rows: for each row, Decided is called in the order of
	// the commits. The witness does not keep outs.
	Decided(from int, outs []Outcome)
	// Ended is called when the transaction has ended; committed is false as well
	// when it is unknown what became of it.
	Ended(committed bool)
}

type txKey struct{}

// WithTx returns a context that carries a driver's transaction. It is for
// drivers; an application gets such a context from its driver, as from bundriver's RunInTx.
func WithTx(ctx context.Context, tx any) context.Context {
	return context.WithValue(ctx, txKey{}, tx)
}

// TxOf returns the transaction that ctx carries, nil when there is none.
func TxOf(ctx context.Context) any { return ctx.Value(txKey{}) }
